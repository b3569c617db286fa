"""Addresses of the pages."""

from django.urls import path

from handcar.server.dashboard import views

app_name = "dashboard"
urlpatterns = [
    path("", views.models, name="models"),
    path("models/<name:model_id>/", views.model, name="model"),
]
