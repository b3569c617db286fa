"""Addresses of the catalogue, under /api/v1."""

from django.urls import path

from handcar.server.catalog import views

urlpatterns = [
    path("blobs", views.Blobs.as_view()),
    path("blobs/<hex:name>/bytes", views.BlobBytes.as_view()),
    path("links", views.Links.as_view()),
    path("messages", views.Messages.as_view()),
]
