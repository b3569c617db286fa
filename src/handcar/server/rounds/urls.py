"""Addresses of the training itself, under /api/v1."""

from django.urls import path

from handcar.server.rounds import views

urlpatterns = [
    path("list", views.ModelList.as_view()),
    path("default", views.Default.as_view()),
    path("model", views.Model.as_view()),
    path("heartbeat", views.Heartbeats.as_view()),
    path("updates", views.Updates.as_view()),
    path("updates/<uuid:id>", views.OneUpdate.as_view()),
    path("updates/<uuid:id>/bytes", views.UpdateBytes.as_view()),
    path("updates/<uuid:id>/complete", views.CompleteUpdate.as_view()),
    path("audits/<uuid:id>", views.OneAudit.as_view()),
    path("audits/<uuid:id>/updates/<uuid:update_id>", views.UpdateOfAudit.as_view()),
    path("series/<name:model_id>", views.SeriesOfModel.as_view()),
    path("files/<hex:name>", views.Files.as_view()),
    path("models", views.Models.as_view()),
    path("models/<name:model_id>", views.OneModel.as_view()),
    path("models/<name:model_id>/rollback", views.RollbackOfModel.as_view()),
    path("models/<name:model_id>/mirrors", views.MirrorsOfModel.as_view()),
    path("models/<name:model_id>/export", views.ExportOfModel.as_view()),
]
