"""The database of a set: reached, dumped with its roles, and tried. Who takes the media alone does not import it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.model.backup_set import LoadTest, StoredSet
from backup.model.manifest import Manifest, Tier, file_name
from backup.monitoring import forecast
from backup.operations.create import moment_media
from backup.operations.create.context import CreateContext, Reached
from backup.operations.create.draft import SetDraft
from backup.operations.create.reach import reach, reach_again, went_away
from backup.operations.create.roles_reader import RolesReader
from backup.operations.load_test import Dumped, load_test
from backup.operations.restore.replaced import note_lost
from backup.postgres.inspect import DatabaseFacts

_AGAIN: Final = "It was tried twice: `docker compose ps` and the database's log say why. Then run `create` again."


@dataclass
class DatabaseHalf:
    """The database of a set that is being made. `before` is the last set."""

    reached: Reached
    context: CreateContext
    draft: SetDraft
    before: Manifest | None

    @property
    def facts(self) -> DatabaseFacts:
        """What it said of itself."""
        return self.reached.facts

    def take(self) -> ExitStack:
        """Dump it, and its roles; once more, if it went away meanwhile. What keeps their files open."""
        try:
            return self._dump_and_roles()
        except BackupError as error:
            if self.reached.recovered or not went_away(error):
                raise
            logger.warning("the database went away during the dump; looking it up once more: {}", error.message)
        self.draft.forget()
        try:
            self.reached = Reached(*reach_again(self.context, self.facts))
            return self._dump_and_roles()
        except BackupError as error:
            error.hint = f"{error.hint} {_AGAIN}".strip()
            raise

    def take_media(self, stack: ExitStack) -> None:
        """Let the set of a moment hold the media that go with it, if it is to."""
        if self.context.takes_media and self.context.origin:
            moment_media.take_media(self.context, self.draft, stack)

    def _dump_and_roles(self) -> ExitStack:
        draft, reached = self.draft, self.reached
        with ExitStack() as stack, RolesReader(partial(reached.source.roles, self.facts, draft.run)) as roles:
            with draft.timed("database"):
                self._dump(stack, roles.begin)
            with draft.timed("roles"):
                self._roles(roles, stack)
            if draft.database and reached.recovered:
                recovered = moment_media.with_media(reached.recovered, reached, self.context, draft)
                draft.database = draft.database.model_copy(update={"recovered": recovered})
            return stack.pop_all()

    def _dump(self, stack: ExitStack, begun: Callable[[], None]) -> None:
        context, draft, facts = self.context, self.draft, self.facts

        def advance(count: int) -> None:
            if count:
                begun()
            context.progress.advance(count)

        context.progress.phase("database", forecast.plain_dump(self.before, facts.size))
        file = file_name("backup", draft.id, "sql.gz")
        writer = stack.enter_context(draft.writer(context, file, "database"))
        writer.hashing = writer.encrypted
        draft.database, cutter = self.reached.source.dump(facts, writer, draft.run, advance, draft.definitions)
        writer.plain_sha256 = cutter.sha256 if cutter else ""
        context.progress.phase("reading the dump back")
        dump = draft.take(writer)
        if cutter and (contents := cutter.contents(writer.marks, dump.stored_size)):
            file = file_name("backup", draft.id, "contents.gz")
            listing = stack.enter_context(draft.writer(context, file, "contents"))
            listing.write(contents.encode())
            draft.take(listing)

    def _roles(self, roles: RolesReader, stack: ExitStack) -> None:
        context, draft = self.context, self.draft
        context.progress.phase("roles")
        file = file_name("roles", draft.id, "sql.gz")
        writer = stack.enter_context(draft.writer(context, file, "roles"))
        draft.roles = roles.read()
        writer.write(draft.roles.encode(errors="surrogateescape"))
        draft.take(writer)


def reached_half(
    patience: float,
    tier: Tier,
    context: CreateContext,
    draft: SetDraft,
    before: Manifest | None,
    connected: ExitStack,
) -> DatabaseHalf:
    """Reach the database to dump, waiting `patience` seconds for a starting one. One of another moment makes a set of
    that moment; `connected` ends its server."""
    if context.origin:
        reached = connected.enter_context(context.origin.reach(draft.run, context.progress))
        if reached.moment:
            draft.started, draft.id = reached.moment, context.catalog.new_id(tier, reached.moment)
        return DatabaseHalf(reached, context, draft, before)
    context.progress.phase("querying the database")
    source, facts = reach(context, before, patience)
    note_lost(context.catalog.root, source.login)
    return DatabaseHalf(Reached(source, facts), context, draft, before)


def try_set(context: CreateContext, stored: StoredSet, draft: SetDraft, run: str) -> LoadTest:
    """Try whether a set that was made of `draft` loads."""
    return load_test(
        stored,
        Dumped(draft.definitions.script, draft.roles),
        others=context.catalog.sets(),
        root=context.catalog.root,
        run=run,
        places=context.places,
        clock=context.clock,
    )
