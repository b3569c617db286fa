"""The two pages. With `HX-Request` a view returns only the part that changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
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
from handcar.server.memory import Kept
from handcar.server.problems import Refusal

View = Callable[..., HttpResponse]
VERSIONS_SHOWN = 15
PAGE_KEPT_S = 2.0
_pages: Kept[HttpResponse] = Kept(PAGE_KEPT_S, most=200)


def live(view: View) -> View:
    """Let a page be asked for every few seconds, by many: unchanged, it costs a 304 and no body."""
    view = cache_control(no_cache=True)(view)
    view = vary_on_headers("HX-Request")(view)
    return require_safe(gzip_page(conditional_page(shared(view))))


def shared(view: View) -> View:
    """Give all who ask within a moment the same page: nothing on it is about who asks."""

    @wraps(view)
    def answer(request: HttpRequest, **arguments: str) -> HttpResponse:
        key = request.build_absolute_uri(), request.headers.get("HX-Request")
        made = _pages.get(key, lambda: view(request, **arguments))
        # Another one each time, since what is outside puts headers on it.
        return HttpResponse(made.content, status=made.status_code, headers=dict(made.items()))

    return answer


@live
def models(request: HttpRequest) -> HttpResponse:
    """All models, who trains now, and how to join."""
    now = timezone.now()
    asked = request.GET.get("page", "")
    page = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 1
    overview = services.overview(now, page)
    return _answer(request, "models", {"overview": overview, "now": now})


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
