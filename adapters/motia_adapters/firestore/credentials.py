"""Whose project it is and with which credentials it is reached, as users of firebase-admin have them."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import google.auth
import google.auth.exceptions
import google.oauth2.service_account
import grpc
from google.cloud.firestore_v1.services.firestore.transports.grpc_asyncio import FirestoreGrpcAsyncIOTransport

from motia_adapters.firestore.options import FirestoreOptions
from motia_core.errors import BackendError

SCOPES = ("https://www.googleapis.com/auth/datastore", "https://www.googleapis.com/auth/cloud-platform")
PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_UNUSABLE = (google.auth.exceptions.GoogleAuthError, OSError, AttributeError, TypeError, ValueError, KeyError)
"""How google-auth says that there are no credentials, or stumbles over a file that holds none."""
_REMEDY = (
    'give a service account\'s key (credentials = "service-account.json"), set GOOGLE_APPLICATION_CREDENTIALS, run'
    " `gcloud auth application-default login`, or set FIRESTORE_EMULATOR_HOST to use the emulator"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A project, and what opens it. ``source`` says in words where the credentials came from."""

    project: str
    source: str
    credentials: Any = None

    def channel(self, options: FirestoreOptions, settings: list[tuple[str, Any]]) -> Any:
        """A new gRPC channel with these settings."""
        if options.emulator:
            return grpc.aio.insecure_channel(options.emulator, options=settings)
        return FirestoreGrpcAsyncIOTransport.create_channel(
            options.endpoint, credentials=self.credentials, scopes=SCOPES, options=settings
        )


async def find_account(options: FirestoreOptions, timeout: float) -> Account:
    """The project and its credentials. Raises `BackendError` that says what is missing, within ``timeout``."""
    if options.app is not None:
        return _of_app(options)
    if options.emulator:
        return Account(_project(options) or "demo-motia", "none: the emulator asks for none")
    if options.credentials is not None:
        return _of_file(options)
    try:
        async with asyncio.timeout(timeout):
            found, project = await asyncio.to_thread(google.auth.default, scopes=SCOPES)
    except TimeoutError as error:
        raise BackendError(f"firestore: no credentials were found within {timeout:g} s ({_REMEDY})") from error
    except _UNUSABLE as error:
        raise BackendError(f"firestore: {_not_found()} ({_REMEDY})") from error
    return Account(_named(_project(options) or project), "application default credentials", found)


def _of_app(options: FirestoreOptions) -> Account:
    import firebase_admin

    try:
        app = firebase_admin.get_app(options.app or "[DEFAULT]")
    except ValueError as error:
        raise BackendError(
            f"firestore: there is no firebase_admin app {options.app!r}: call firebase_admin.initialize_app() before"
            " the storage is opened"
        ) from error
    project = options.project or app.project_id or _project(options)
    if options.emulator:
        return Account(project or "demo-motia", f"firebase_admin app {app.name!r}, for the emulator")
    try:
        credentials = app.credential.get_credential()
    except _UNUSABLE as error:
        raise BackendError(
            f"firestore: the firebase_admin app {app.name!r} has no credentials: {_not_found()} ({_REMEDY})"
        ) from error
    return Account(_named(project), f"firebase_admin app {app.name!r}", credentials)


def _of_file(options: FirestoreOptions) -> Account:
    path = options.credentials
    assert path is not None
    try:
        content = json.loads(path.read_bytes())
        make: Any = google.oauth2.service_account.Credentials.from_service_account_info
        credentials = make(content, scopes=SCOPES)
    except OSError as error:
        raise BackendError(f"firestore: the key {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError):
        # Without its cause, which may quote the key.
        raise BackendError(
            f"firestore: {str(path)!r} is not the key of a service account: download one in JSON from the project's"
            " settings, Service accounts"
        ) from None
    return Account(_named(_project(options) or content.get("project_id")), f"service account key {path}", credentials)


def _not_found() -> str:
    """What is wrong, without a word of what is in the file."""
    if not (path := os.environ.get(_FILE_VARIABLE)):
        return "no credentials were found"
    if not os.path.exists(path):
        return f"{_FILE_VARIABLE} names {path!r}, which is not there"
    return f"{_FILE_VARIABLE} names {path!r}, which cannot be read or holds no credentials"


def _project(options: FirestoreOptions) -> str | None:
    if options.project:
        return options.project
    if options.credentials is not None:
        return None  # its key names one
    return next((value for name in PROJECT_VARIABLES if (value := os.environ.get(name))), None)


def _named(project: str | None) -> str:
    if not project:
        raise BackendError(
            'firestore: no project is named: project = "my-app", firestore://my-app, or GOOGLE_CLOUD_PROJECT'
        )
    return project
