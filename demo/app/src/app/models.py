"""Communities, their cases, and documents in the folders that OBCMS uploads to."""

from django.db import models


class Community(models.Model):
    """A barangay."""

    name = models.CharField(max_length=120)
    municipality = models.CharField(max_length=80, db_index=True)
    households = models.PositiveIntegerField()
    profile = models.JSONField(default=dict)

    class Meta:
        verbose_name_plural = "communities"


class Case(models.Model):
    """A request of a community, from its receipt to its end."""

    class Status(models.TextChoices):
        """How far it is."""

        OPEN = "open"
        REVIEW = "review"
        CLOSED = "closed"

    community = models.ForeignKey(Community, on_delete=models.PROTECT, related_name="cases")
    title = models.CharField(max_length=200)
    description = models.TextField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    received_at = models.DateTimeField()


class Document(models.Model):
    """An uploaded report."""

    case = models.ForeignKey(Case, on_delete=models.CASCADE, related_name="documents")
    title = models.CharField(max_length=200)
    file = models.FileField(upload_to="ai_documents/pdf/%Y/%m/", max_length=255)
    uploaded_at = models.DateTimeField()


class Evidence(models.Model):
    """A photograph or letter that belongs to a case."""

    case = models.ForeignKey(Case, on_delete=models.CASCADE, related_name="evidence")
    file = models.FileField(upload_to="policy_evidence/%Y/%m/", max_length=255)

    class Meta:
        verbose_name_plural = "evidence"


class Partnership(models.Model):
    """An agreement with an organisation."""

    organisation = models.CharField(max_length=200)
    agreement = models.FileField(upload_to="partnerships/%Y/", max_length=255)
    signed_on = models.DateField()
