"""Addresses of the demo application."""

from app import views
from django.urls import path, re_path

urlpatterns = [
    path("", views.overview),
    path("health/", views.health),
    re_path(r"^media/(?P<path>.+)$", views.media),
]
