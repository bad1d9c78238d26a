"""One page that tells what is there, and what is not: a damaged database must not keep it from answering."""

from django.conf import settings
from django.db import DatabaseError, connection, models
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils._os import safe_join

from app.models import Case, Community, Document, Evidence, Partnership

MODELS: tuple[type[models.Model], ...] = (Community, Case, Document, Evidence, Partnership)
FILES = ((Document, "file"), (Evidence, "file"), (Partnership, "agreement"))
SHOWN = 12


def overview(request: HttpRequest) -> HttpResponse:
    """The page."""
    missing = list(_missing())
    context = {
        "counts": [(model._meta.verbose_name_plural, _count(model)) for model in MODELS],
        "files": sum(1 for path in settings.MEDIA_ROOT.rglob("*") if path.is_file() and not _kept(path)),
        "missing": missing,
        "cases": _rows(Case.objects.select_related("community").order_by("-received_at")[:SHOWN]),
        "documents": [(each, each.file.name in missing) for each in _rows(Document.objects.order_by("-id")[:SHOWN])],
    }
    return render(request, "overview.html", context)


def health(request: HttpRequest) -> HttpResponse:
    """Whether the application answers, as OBCMS says it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "healthy", "service": "obcms-demo"})


def media(request: HttpRequest, path: str) -> FileResponse:
    """One uploaded file; nginx does this for OBCMS."""
    try:
        return FileResponse(open(safe_join(settings.MEDIA_ROOT, path), "rb"))
    except (OSError, ValueError) as error:
        raise Http404 from error


def _kept(path) -> bool:
    """Whether a file is not the application's: a restore keeps here what it replaced, for `undo`."""
    return path.relative_to(settings.MEDIA_ROOT).parts[0].startswith(".obcms-restore")


def _count(model: type[models.Model]) -> int | None:
    """Rows of a table; None if there is no such table."""
    try:
        return model.objects.count()
    except DatabaseError:
        return None


def _rows(query: models.QuerySet) -> list:
    try:
        return list(query)
    except DatabaseError:
        return []


def _missing():
    """Names of files that a row refers to and the disk has not."""
    for model, field in FILES:
        for name in _rows(model.objects.values_list(field, flat=True)):
            if not (settings.MEDIA_ROOT / name).is_file():
                yield name
