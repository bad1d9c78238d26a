"""How what a page states is typed: the stack's own names and numbers for the page's placeholders, where, and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backup.cli import COMMANDS
from tests.support.documented_commands import ROOT, Stated, forms
from tests.support.documented_damage import SCENES, Scene

_ENGINE = "-v /var/run/docker.sock:/var/run/docker.sock"
_PULL = "restore latest --only media --path uploads/2025/a.pdf"
# Words of a page, by pattern, and what stands for them here. {names} are known once a stack is up.
PLACEHOLDERS = (
    # known once it has happened (World.rows_are_deleted)
    (r"'2026-11-28 16:05'", '"$(cat moment)"'),
    # what is another folder, volume or machine on the page
    (r"/path/to/obcms/backups", "{folder}/old"),
    (r"/path/to/", ""),
    (r"/folder/on/the/host", "{folder}/carried"),
    (r"/folder/with/it", "{folder}"),
    (r"/root/(backup-identity\.txt|db_password)", r"{folder}/\1"),
    (r"--to /folder", "--to /backups/temp/folder"),
    (r"\bobcms_backups:", "{project}_obcms_backups:"),
    (r"obcms_media_volume:", "{project}_media_volume:"),
    (r"obcms_obcms_network", "{project}_obcms_network"),
    (r"tasks\.db", "db"),
    (r" alpine ", " {alpine} "),
    (r"daily_2025-10-20_02-00-00", "{newer}"),
    (r"daily_2025-10-19_02-00-00", "{older}"),
    # a file that is there already is not written over
    (r'"\$PWD":/project', '"$PWD/written":/project'),
    (r"\bobcms-backup(:latest)?(?= (setup|restore))", "{image}"),
    # what makes an image makes one of another name, from the folder of the repository
    (r"docker build -t obcms-backup:latest <folder of this file>", f"docker build -t {{alpine}}-built {ROOT}"),
    (r"^tools/build", f"IMAGE={{alpine}}-built {ROOT}/tools/build"),
    # `make test` runs this very test: what each would run is written, nothing is done
    (r"^make (?!demo)", f"make -C {ROOT} -n "),
    # what sentences leave out
    (r"^restore --path$", _PULL),
    (r"^(offsite pull)$", r"\1 latest"),
    (r"restore …", "restore latest"),
    (r"psql …", "psql -X -v ON_ERROR_STOP=1 -d look_again"),
    (r"^verify --quick", "verify latest --quick"),
    (r"^logs --run$", "logs --run ID"),
    (r"^(psql -X -v ON_ERROR_STOP=1)$", r"\1 -d look_too < app_case.sql"),
    (r'^eval "\$\(backup --show-completion\)"', "docker compose exec backup bash -c '\\g<0>'"),
    (r"^tar -czf FILE -C PARENT FOLDER", "tar -czf media.tar.gz -C . media"),
    # rows of the table of commands
    (r"^restore (\S+) (--path)", r"restore \1 --only media \2"),
    (r"^setup", "setup --project {project}"),
    (r"^(setup .*)--project \S+ (--project)", r"\1\2"),
    (r"^setup (.*--write) FILE", r"setup \1 /project/made.yml"),
    (r"^setup (.*--write) DIR", r"setup \1 /project"),
    (r"^setup", f'docker run --rm {_ENGINE} -v "$PWD/made":/project {{image}} \\g<0>'),
    (r"^backup setup$", "backup setup --project {project}"),
    (r"^import (FILE…|DIR)", r"docker compose run --rm -v {folder}/old:/old:ro backup import \1"),
    (r"import FILE…", "import /old/daily/{old}"),
    (r"import DIR", "import /old"),
    (r"^serve$", "docker compose up -d --wait backup"),
    (r"COMMAND", "status"),
    (r"SECONDS", "60"),
    (r"TIER", "daily"),
    (r"PATTERN", "'*.pdf'"),
    (r"--path PATH", "--path uploads/2025/a.pdf"),
    (r"TABLE", "app_case"),
    (r"--lost ROWS", "--lost 100"),
    (r"--since MOMENT", "--since '1 hour ago'"),
    (r"TEXT", "'before the upgrade'"),
    (r"^drill --image IMAGE", "drill ID --image obcms-test/postgres:17"),
    (r"(--tail|--count|--archive-days) N\b", r"\1 5"),
    (r"--service NAME", "--service db"),
    (r"--project NAME", "--project {project}"),
    (r"-o FILE", "-o /tmp/app_case.sql"),
    (r"--to DIR", "--to /backups/temp/copy"),
    (r"pull latest --from copy", "pull ID --from copy"),
    (r"export (\S+) DIR", r"docker compose run --rm -v {folder}/out:/out backup export \1 /out"),
    (r"--run ID", "--run {run}"),
    (r"--server ID", "--server {server}"),
    (r"\bFILE(?!\.sql\.gz\.age)\b", "obcms_backup_{newer}.sql.gz"),
    (r"\bID\b", "{newer}"),
)
# Bytes are not for a terminal.
_BYTES = re.compile(r"backup (cat|extract (?!.* -o)|export (\S+$|\S+ -$))")
# When: the first that fits. `drill` alone proves every tier, so it comes while there is one; what makes whole sets
# comes after what makes halves, so that `latest` is whole.
_ORDER = (
    ("prove all", r"drill$"),
    ("prove", r"drill |verify .*--test"),
    ("make halves", r"create .*--only"),
    ("make", r"create( |$)"),
    ("send", r"(upload|offsite (setup|check))\b"),
    ("do", r"docker run .* /backups/weekly"),  # once there are sets of every tier
    (
        "look",
        r"(list|show|du|cat|extract|status|moments|monitor|logs|schedule|notify|healthcheck|setup|doctor|export)\b",
    ),
    (
        "look",
        r"offsite (list|policy)|verify (?!.*--test)|make |tar |sha256sum |docker (run|build) (?!.* restore )",
    ),
    ("look", r"restore .*--dry-run"),
    ("carry", r".*\bimport\b"),
    ("change", r"(.* )?restore\b"),
    ("change back", r"undo\b"),
    ("do", r""),
)
# What stands together runs at the same time; of `look` all, of the others one after the other.
_STEPS = (
    ("prove all",),
    ("make halves",),
    ("make",),
    ("send",),
    ("prove", "look"),
    ("do",),
    ("carry",),
    ("change",),
    ("change back",),
)


# Each part has a stack of its own, so that they can run beside each other: what only looks and proves, what makes and
# changes, the scenes in two halves, and those that need BACKUP_PITR.
PARTS = ("looks", "works", "losses", "copies", "moments")
_LOOKS = ("prove all", "prove", "look")


@dataclass(frozen=True)
class Typed:
    """A command as it is typed, for one that is stated. `scene`: the section that it is run in, if it needs one."""

    stated: Stated
    text: str
    scene: Scene | None = None

    @property
    def words(self) -> str:
        """The product's own words, however it is called; other commands as they are."""
        return re.sub(r"^(docker compose run --rm( -T)? backup|backup) ", "", self.text)

    @property
    def time(self) -> str:
        """Its place in the order."""
        return next(name for name, pattern in _ORDER if re.match(pattern, self.words))

    def part(self, staged: dict[str, Scene]) -> str:
        """Where it is run: in its scene, or in the first one that has the same words; the others by what they do."""
        scene = self.scene or staged.get(self.words)
        return scene.part if scene else "looks" if self.time in _LOOKS else "works"


def typed(each: Stated) -> list[Typed]:
    """What is typed for one that is stated: one line, or one for each form of a row; {names} are not filled in."""
    scene = next((s for s in SCENES if (s.page, s.section) == (each.page, each.section)), None)
    row = each.form == "row" and each.text.split()[0] in COMMANDS
    return [Typed(each, _placed(text), scene) for text in (forms(each.text) if row else [each.text])]


def _placed(text: str) -> str:
    for pattern, words in PLACEHOLDERS:
        text = re.sub(pattern, words, text)
    if text.split()[0] in COMMANDS:
        text = f"backup {text}"
    if _BYTES.match(text):
        text += " > bytes"
    return text + (" < set.tar" if text.endswith("import -") else "")


def filled(text: str, values: dict[str, str]) -> str:
    """With what {names} stand for in one stack."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def by_part(all_typed: list[Typed]) -> dict[str, list[Typed]]:
    """Which part runs each: those of a scene, and those elsewhere whose words it has, in the scene's part."""
    staged: dict[str, Scene] = {}
    for each in all_typed:
        if each.scene:
            staged.setdefault(each.words, each.scene)
    return {name: [each for each in all_typed if each.part(staged) == name] for name in PARTS}


def in_order(part: list[Typed]) -> Iterator[list[list[Typed]]]:
    """Step by step the rows of commands that may run beside each other, each command once, but those of the scenes."""
    staged = {each.words for each in part if each.scene}
    once: dict[str, Typed] = {}
    for each in sorted(part, key=lambda each: not each.text.startswith("docker")):
        if not each.scene and each.words not in staged:
            once.setdefault(each.words, each)
    chosen = [each for each in part if once.get(each.words) is each]
    for step in _STEPS:
        groups = {time: [each for each in chosen if each.time == time] for time in step}
        looks = groups.pop("look", [])
        yield [*groups.values(), *([each] for each in looks)]
