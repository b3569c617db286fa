"""The two pages. With `HX-Request` a view returns only the part that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import cache_control
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import conditional_page, require_safe
from django.views.decorators.vary import vary_on_headers

from handcar.protocol import problems
from handcar.server.dashboard import services
from handcar.server.problems import Refusal

View = Callable[..., HttpResponse]
VERSIONS_SHOWN = 15


def live(view: View) -> View:
    """Let a page be asked for every few seconds: unchanged, it costs a 304 and no body."""
    view = cache_control(no_cache=True)(view)
    view = vary_on_headers("HX-Request")(view)
    return require_safe(gzip_page(conditional_page(view)))


@live
def models(request: HttpRequest) -> HttpResponse:
    """All models, who trains now, and how to join."""
    now = timezone.now()
    return _answer(request, "models", {"overview": services.overview(now), "now": now})


@live
def model(request: HttpRequest, model_id: str) -> HttpResponse:
    """One model: its curves, its versions and its people."""
    now = timezone.now()
    shown = None if request.GET.get("versions") == "all" else VERSIONS_SHOWN
    try:
        page = services.model_page(model_id, now, versions_shown=shown)
    except Refusal as refusal:
        if refusal.status != problems.NOT_FOUND.status:
            raise
        raise Http404(f"no model is named {model_id}") from refusal
    return _answer(request, "model", {"page": page, "status": page.status, "now": now})


def _answer(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    part = "_live" if request.headers.get("HX-Request") == "true" else ""
    server_url = request.build_absolute_uri("/").rstrip("/")
    return render(request, f"dashboard/{name}{part}.html", {**context, "server_url": server_url})
