"""What a person should know about the encryption of their sets, before a key is missed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, ok, warning


@dataclass(frozen=True)
class Keys:
    """The settings' side: what is encrypted (`off`, `offsite`, `all`), to whom (short names), and whether the
    identity is here: `identity` its path, empty for none; `trouble` why it cannot be used."""

    encrypt: str
    recipients: tuple[str, ...] = ()
    identity: str = ""
    trouble: str = ""


def told(keys: Keys, sets: Sequence[StoredSet]) -> list[Finding]:
    """How encryption is set up, where the key is, and whether anybody has shown that the newest set can be opened."""
    encrypted = [each for each in sets if each.encrypted and each.good]
    if keys.encrypt == "off" and not encrypted:
        return [ok("sets are not encrypted (BACKUP_ENCRYPT=off)")]
    lines = [_to_whom(keys), *_one_recipient(keys), _identity(keys)]
    if encrypted:
        lines.append(_newest(max(encrypted, key=lambda each: (each.time, each.id))))
    elif keys.encrypt == "all":
        lines.append(Finding("pass", "no encrypted set has been made yet", "`create` makes one."))
    return lines


def _to_whom(keys: Keys) -> Finding:
    what = {"off": "nothing new", "offsite": "offsite copies alone", "all": "every new set"}[keys.encrypt]
    return ok(f"encrypted: {what}; recipients: {', '.join(keys.recipients) or 'none'}")


def _one_recipient(keys: Keys) -> list[Finding]:
    if len(keys.recipients) != 1 or keys.encrypt == "off":
        return []
    return [
        Finding(
            "pass",
            "one key alone opens the sets: if it is lost, every encrypted set is lost with it",
            "Keep it in two places away from this machine, or name a second recipient in BACKUP_AGE_RECIPIENTS.",
        )
    ]


def _identity(keys: Keys) -> Finding:
    if keys.trouble:
        return warning(keys.trouble, "BACKUP_AGE_IDENTITY_FILE must name a file as `age-keygen -o FILE` writes it.")
    if keys.identity:
        return ok(
            f"the private key is here ({keys.identity}): sets are verified and drilled whole; whoever takes this"
            " machine takes the key, too"
        )
    return Finding(
        "pass",
        "no private key is here: a verification compares stored bytes alone, and a scheduled drill of an encrypted set"
        " fails",
        "Prove now and then that the key still fits: `drill latest --identity FILE`.",
    )


def _newest(stored: StoredSet) -> Finding:
    if stored.proven:
        return ok(f"{stored.id}, the newest encrypted set, was proven with its key")
    if not stored.unopened:
        return ok(f"{stored.id}, the newest encrypted set, was opened with its key, but never restored by a drill")
    return warning(
        f"nobody has shown yet that {stored.id}, the newest encrypted set, can be opened",
        f"`drill {stored.id} --identity FILE` shows it; a key that was lost is noticed then and not in an emergency.",
    )
