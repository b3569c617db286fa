"""Addresses of the accounts, under /api/v1."""

from django.urls import path

from handcar.server.accounts import views

urlpatterns = [path("volunteers", views.Volunteers.as_view())]
