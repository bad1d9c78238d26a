"""The part of RESTORE.txt that puts the files of an incremental set together by hand: from its tree and its packs."""

from __future__ import annotations

from typing import Final

from backup.formatting import plural, printable, size
from backup.model.manifest import Manifest, VolumePart

_QUOTE: Final = r"\047"
# The path of the next file of the index, as it stands there.
_NAMED: Final = r"""
  function named(  line) {
    listed | getline line
    escaped = substr(line, 1, 1) == "\\"
    match(line, /^\\?[0-9a-f]+  [0-9]+  /)
    return substr(line, RLENGTH + 1)
  }
"""
# What the tree escapes becomes what it was, in quotes for sh. In awk, since that reads the tree.
_FUNCTIONS: Final = rf"""
  function plain(s,  out, at, c) {{
    while (at = index(s, "\\")) {{
      c = substr(s, at + 1, 1)
      out = out substr(s, 1, at - 1) (c == "n" ? "\n" : c == "t" ? "\t" : c == "r" ? "\r" : "\\")
      s = substr(s, at + 2)
    }}
    return out s
  }}
  function quoted(s,  parts, count, each, out) {{
    count = split(s, parts, "{_QUOTE}")
    for (each = 1; each <= count; each++) out = out (each > 1 ? "{_QUOTE}\\{_QUOTE}{_QUOTE}" : "") parts[each]
    return "{_QUOTE}" out "{_QUOTE}"
  }}
  function moment(ns,  sign) {{
    sign = sub(/^-/, "", ns) ? "-" : ""
    while (length(ns) < 10) ns = "0" ns
    return "@" sign substr(ns, 1, length(ns) - 9) "." substr(ns, length(ns) - 8)
  }}
  function as_it_was(path) {{
    print "chown -h " $3 ":" $4 " " path
    if ($1 != "l") print "chmod " $2 " " path
    print "touch -h -d " moment($5) " " path
  }}
  $1 == "m" {{ next }}
  $1 == "p" {{ packs[$2] = $3; next }}
  $1 == "d" {{ print "mkdir -p " quoted(plain($7)); order[++directories] = $0; next }}
  $1 == "l" {{ path = quoted(plain($7)); print "ln -s -- " quoted(plain($8)) " " path }}
  $1 == "h" || $1 == "f" {{ text = named(); bare = escaped ? plain(text) : text; path = quoted(bare) }}
  $1 == "h" {{ print "ln " quoted(plain($7)) " " path; next }}
  $1 == "f" && $7 == "" {{ print ": >" path }}
  $1 == "f" && $7 != "" {{
    part = quoted("parts/" packs[$7] "/" ($11 == "" ? bare : plain($11)))
    print (taken[part]++ ? "cp -p " : "ln ") part " " path
  }}
  {{ as_it_was(path) }}
  END {{ while (directories) {{ $0 = order[directories--]; as_it_was(quoted(plain($7))) }} }}
"""


def pack_checksums() -> list[str]:
    """The command that checks the packs; their digests are in the manifest."""
    return [
        "The files of the set lie in packs, which it shares with others; each line must end in OK here, too. A pack",
        "may have been written anew without what no set needs: then a note beside it, ….repacked, has its SHA-256.",
        """    awk -F'"' '/"packs": \\[/ { on = 1 } on && $2 == "file" { file = $4 }"""
        """ on && $2 == "stored_sha256" { print $4 "  " file }' "obcms_set_$SET.json\""""
        ' | (cd "$PACKS" && while read -r sum file; do',
        '      has=$(sha256sum <"$file" | cut -c 1-64)',
        """      if [ "$has" = "$sum" ] || grep -qs "\\"$has\\"" "$file.repacked"; then echo "$file: OK"; else""",
        '        echo "$file: FAILED"; bad=1; fi; done; [ -z "${bad-}" ])',
    ]


def packed_volume(manifest: Manifest, volume: VolumePart) -> list[str]:
    """The lines for one volume: what they say, and the commands."""
    if manifest.artifact("tree", volume.name) is None:
        return []
    name = f"obcms_{volume.name}_$SET"
    awk = [*_NAMED.strip("\n").splitlines(), *_FUNCTIONS.strip("\n").splitlines()]
    listed = f'-v listed="gunzip -c {name}.files.gz"'
    return [
        f"Volume {printable(volume.name)}: {plural(volume.files, 'file')}, {size(volume.bytes)}, out of packs. The tree"
        " says which pack holds",
        "what. First what is needed is taken out of each (with GNU tar), then it gets its names, owners, modes and",
        "times. Extended attributes that changed since a file was packed are in the tree alone.",
        f'    tree() {{ gunzip -c "{name}.tree.gz"; }}',
        '    mkdir -p "$TARGET/parts"',
        "    tree | awk -F'\\t' '$1 == \"p\" { print $3 }' >\"$TARGET/needed\"",
        "    while read -r pack; do",
        '      mkdir -p "$TARGET/parts/$pack"',
        f"      tree | LC_ALL=C awk -F'\\t' -v pack=\"$pack\" {listed} '",
        *(f"    {line}" for line in _NAMED.strip("\n").splitlines()),
        '      $1 == "p" && $3 == pack { number = $2 }',
        '      $1 == "f" || $1 == "h" { text = named() }',
        '      $1 == "f" && $7 != "" && $7 == number { print $11 == "" ? text : $11 }\' \\',
        '        | LC_ALL=C sort -u | tar -xzpf "$PACKS/$pack" -C "$TARGET/parts/$pack" -T -',
        '    done <"$TARGET/needed"',
        f"    tree | LC_ALL=C awk -F'\\t' {listed} '",
        *(f"    {line}" for line in awk),
        "    ' | (cd \"$TARGET\" && sh -eu)",
        '    rm -r "$TARGET/parts" "$TARGET/needed"',
    ]  # fmt: skip
