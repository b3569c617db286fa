"""Django's settings. What may differ from server to server is in `configuration`."""

from __future__ import annotations

import os

from handcar import __version__
from handcar.server import configuration, logs
from handcar.stores.signing import Signer

HANDCAR = configuration.read(os.environ)
HANDCAR_HOME = HANDCAR.home
HANDCAR_HOME.make_folders()
SECRET_KEY = HANDCAR.secret_key or HANDCAR_HOME.secret_key()
HANDCAR_SIGNING_KEY = HANDCAR.signing_key or HANDCAR_HOME.signing_key()
HANDCAR_CHECKING_KEY = HANDCAR.checking_key or HANDCAR_HOME.checking_key()
DEBUG = HANDCAR.debug
# All names: volunteers come by address, by name and through tunnels, and no page or mail
# of ours is built from the Host header for anyone but the one who sent it.
ALLOWED_HOSTS = list(HANDCAR.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(HANDCAR.trusted_origins)

if HANDCAR.behind_proxy:
    USE_X_FORWARDED_HOST = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# Signs volunteers' links to owners' private buckets.
HANDCAR_S3 = (
    Signer(HANDCAR.s3_key, HANDCAR.s3_secret, HANDCAR.s3_region, HANDCAR.s3_endpoint)
    if HANDCAR.s3_key and HANDCAR.s3_secret
    else None
)

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "handcar.server.accounts",
    "handcar.server.catalog",
    "handcar.server.rounds",
    "handcar.server.dashboard",
]

MIDDLEWARE = [
    "handcar.server.watching.Watch",
    "handcar.server.pausing.Pausing",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "handcar.server.watching.ContentPolicy",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "handcar.server.urls"
WSGI_APPLICATION = "handcar.server.wsgi.application"

DATABASES = configuration.databases(HANDCAR)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = HANDCAR_HOME.static
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True

LOGIN_URL = "/admin/login/"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["handcar.server.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "handcar.server.bodies.AlwaysJson",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "handcar.server.problems.handle",
    "NUM_PROXIES": 1 if HANDCAR.behind_proxy else 0,
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Handcar",
    "DESCRIPTION": "Train one neural network with many people's computers.",
    "VERSION": __version__,
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": True,
    "SERVE_AUTHENTICATION": [],
    # Its enumerations get names of their own otherwise, and warn of each.
    "POSTPROCESSING_HOOKS": [],
}

LOGGING = logs.settings(HANDCAR.log, HANDCAR.log_format)
