"""Invents communities, cases and documents: the same ones on every machine, and nothing if there are some already."""

import random
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management.base import BaseCommand
from django.db import transaction

from app.models import Case, Community, Document, Evidence, Partnership

COMMUNITIES, CASES, DOCUMENTS, EVIDENCE, PARTNERSHIPS, USERS = 1200, 4800, 360, 90, 30, 60
PLACES = ("Kidapawan", "Koronadal", "Zamboanga", "Parañaque", "Tacurong", "Iligan", "General Santos")
PEOPLES = ("Maguindanaon", "Maranao", "Tausug", "Yakan", "Iranun", "Sama")
SUBJECTS = (
    "Water system",
    "Scholarship",
    "Health station",
    "Land title",
    "Road repair",
    "Livelihood grant",
    "Madrasah",
)
WORDS = tuple(
    "asks for support since the flood took bridge school well road and families of barangay need rice water".split()
)
FIRST = datetime(2025, 1, 6, 8, 0, tzinfo=ZoneInfo("Asia/Manila"))


class Command(BaseCommand):
    """manage.py seed"""

    help = "Fill an empty database and media folder."

    def handle(self, *args: str, **options: object) -> None:
        """All rows in one transaction, then nothing: a second call finds them."""
        if Community.objects.exists():
            self.stdout.write("seed: there are rows already")
            return
        # Not for secrets, and the same data each time.
        chance = random.Random(20251020)  # noqa: S311
        with transaction.atomic():
            self._people(chance)
            self._files(chance)
        self.stdout.write(f"seed: {CASES} cases, {DOCUMENTS + EVIDENCE + PARTNERSHIPS} files")

    def _people(self, chance: random.Random) -> None:
        # "!": no password opens these.
        User.objects.bulk_create(
            User(username=f"staff{n}", email=f"staff{n}@obcms.example", password="!") for n in range(1, USERS + 1)
        )
        Community.objects.bulk_create(
            Community(
                name=f"Barangay {n}",
                municipality=chance.choice(PLACES),
                households=chance.randint(20, 900),
                profile={"people": chance.choice(PEOPLES), "services": chance.sample(["water", "power", "school"], 2)},
            )
            for n in range(1, COMMUNITIES + 1)
        )
        communities = list(Community.objects.order_by("id"))
        Case.objects.bulk_create(
            Case(
                community=chance.choice(communities),
                title=f"{chance.choice(SUBJECTS)} no. {n}",
                description=f"{' '.join(chance.choices(WORDS, k=40)).capitalize()}.",
                status=chance.choice(Case.Status.values),
                amount=Decimal(chance.randint(1_000_00, 900_000_00)) / 100,
                received_at=FIRST + timedelta(hours=n * 1.5),
            )
            for n in range(1, CASES + 1)
        )

    def _files(self, chance: random.Random) -> None:
        cases = list(Case.objects.order_by("id"))
        for n in range(1, DOCUMENTS + 1):
            case, title = chance.choice(cases), f"Report {n}"
            name = _save(f"ai_documents/pdf/2025/{1 + n % 10:02}/report_{n:04}.pdf", title, chance)
            Document.objects.create(case=case, title=title, file=name, uploaded_at=case.received_at)
        for n in range(1, EVIDENCE + 1):
            name = _save(f"policy_evidence/2025/{1 + n % 10:02}/evidence_{n:03}.pdf", f"Evidence {n}", chance)
            Evidence.objects.create(case=chance.choice(cases), file=name)
        for n in range(1, PARTNERSHIPS + 1):
            name = _save(f"partnerships/2025/Peñalosa – agreement {n}.pdf", f"Agreement {n}", chance)
            signed = date(2025, 1, 1) + timedelta(days=n * 7)
            Partnership.objects.create(organisation=f"Foundation {n}", agreement=name, signed_on=signed)


def _save(name: str, title: str, chance: random.Random) -> str:
    """Stores a PDF; its name in the row."""
    return default_storage.save(name, ContentFile(_pdf(title, chance.randbytes(chance.randint(8_000, 60_000)))))


def _pdf(title: str, scan: bytes) -> bytes:
    """A page with one line of text, and as much incompressible data as a scan would be."""
    text = f"BT /F1 24 Tf 72 720 Td ({title}) Tj ET".encode()
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(scan), scan),
    )
    written, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj%s endobj\n" % (number, content)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    table += b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(written))
    return written + table + end
