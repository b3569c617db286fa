"""Every address of the server."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, register_converter
from drf_spectacular.views import SpectacularJSONAPIView

from handcar.server.converters import Hex, Name
from handcar.server.health import Health, Ready, metrics

register_converter(Hex, "hex")
register_converter(Name, "name")

API: list[URLPattern | URLResolver] = [
    path("", include("handcar.server.accounts.urls")),
    path("", include("handcar.server.catalog.urls")),
    path("", include("handcar.server.rounds.urls")),
    path("health", Health.as_view()),
    path("ready", Ready.as_view()),
    path("openapi.json", SpectacularJSONAPIView.as_view()),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include(API)),
    path("metrics", metrics),
    path("admin/", admin.site.urls),
    path("", include("handcar.server.dashboard.urls")),
]

handler400 = "handcar.server.problems.bad_request"
handler404 = "handcar.server.problems.page_not_found"
handler500 = "handcar.server.problems.server_error"
