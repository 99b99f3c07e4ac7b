"""The addresses of a service and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import cv2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppcls_ext.core.version import __version__
from ppcls_ext.runtime.results import Result
from ppcls_ext.serve import protocol
from ppcls_ext.serve.bodies import Bodies, images_of
from ppcls_ext.serve.limits import Limits, Refusal
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import CONTENT_TYPE, Metrics
from ppcls_ext.serve.model import Image, Model

GONE = 499  # the client went away before the answer; other servers log this number too
NOTES = "pplcnet.notes"  # key of a request's scope: what its line of the log says beside the usual
OPEN_TO_ALL = ("/v2/health/live", "/v2/health/ready")  # probes come without a token

Endpoint = Callable[[Request], Awaitable[Response]]

INDEX = """\
pplcnet {version}: {models}

POST /predict                      an image; ?model=NAME where there are several
GET  /v2                           the open inference protocol, version 2
GET  /v2/health/live, /ready       whether the service lives, and is ready for work
GET  /v2/models/NAME, /ready
POST /v2/models/NAME/infer
GET  /metrics                      for Prometheus

curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg {address}predict
"""


class Service:
    """Answers requests with the results of models.

    Args:
        models: by name; the service does not close their predictors.
        token: that requests must bear, if any; health is open to all.
    """

    def __init__(
        self, models: Mapping[str, Model], limits: Limits, metrics: Metrics, log: Log, token: str | None = None
    ) -> None:
        self.models, self.limits, self.metrics, self.log = models, limits, metrics, log
        self.draining = False
        self._bodies = Bodies(limits)
        self._token = None if token is None else _digest(token)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        v2 = "/v2/models/{name}"
        routes: list[tuple[str, str, Endpoint]] = [
            ("GET", "/", self.index),
            ("POST", "/predict", self.predict),
            ("GET", "/metrics", self.show_metrics),
            ("GET", "/v2", self.about),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
        ]
        for place in (v2, f"{v2}/versions/{{version}}"):
            routes += [
                ("GET", place, self.about_model),
                ("GET", f"{place}/ready", self.model_ready),
                ("POST", f"{place}/infer", self.infer),
            ]
        starlette = Starlette(
            routes=[Route(path, _guarded(endpoint, self.log), methods=[method]) for method, path, endpoint in routes],
            exception_handlers={HTTPException: _no_such_place},
            lifespan=self._lifespan,
        )
        starlette.router.redirect_slashes = False
        return Gate(starlette, self)

    def let_in(self, scope: Scope) -> bool:
        """Whether a request bears the token, or needs none."""
        if self._token is None or scope["path"] in OPEN_TO_ALL:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        # Digests, so that neither the content nor the length of the token shows in the time that this takes.
        return hmac.compare_digest(_digest(token.strip()), self._token) and kind.lower() == b"bearer"

    async def index(self, request: Request) -> Response:
        """GET /"""
        text = INDEX.format(version=__version__, models=", ".join(self.models), address=request.base_url)
        return PlainTextResponse(text)

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics"""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live: 503 where only a restart helps."""
        return _health(not any(model.hung for model in self.models.values()), {"live": True})

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready: 503 while a model is not fit for work, and once the service is being stopped."""
        fit = {name: model.ready for name, model in self.models.items()}
        return _health(all(fit.values()) and not self.draining, {"ready": True})

    async def about(self, request: Request) -> Response:
        """GET /v2"""
        return _json({"name": "pplcnet", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def about_model(self, request: Request) -> Response:
        """GET /v2/models/NAME"""
        model = self._of_path(request)
        return _json(protocol.metadata(model.name, model.task))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready"""
        model = self._of_path(request)
        return _health(model.ready and not self.draining, {"name": model.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer"""
        model = self._of_path(request)
        model.check_room()
        async with self._bodies.read(request) as body:
            asked = await protocol.read_request(body, request.headers.get(protocol.HEADER), self.limits)
            seconds = self.limits.deadline_s
            with model.accept(len(asked.images)):
                outcomes = await self._results(
                    request, model, asked.images, seconds if asked.seconds is None else min(seconds, asked.seconds)
                )
        content, headers = protocol.write_answer(asked, model.name, _dicts(model, asked.images, outcomes))
        return Response(content, headers=headers)

    async def predict(self, request: Request) -> Response:
        """POST /predict"""
        model = self._of_query(request)
        model.check_room()
        async with self._bodies.read(request) as body:
            images, several = await images_of(request.headers, body, self.limits)
            drawn = _wants_picture(request.headers.get("accept", ""))
            if drawn and several:
                raise Refusal(400, "a picture is drawn of one image: send it alone as the body, or as JSON image")
            with model.accept(len(images)):
                outcomes = await self._results(request, model, images, self.limits.deadline_s)
                if drawn and isinstance(outcomes[0], Result):
                    return Response(await asyncio.to_thread(_picture, outcomes[0]), media_type="image/png")
        found = _dicts(model, images, outcomes)
        return _json(found if several else found[0])

    async def _results(
        self, request: Request, model: Model, images: Sequence[Image], seconds: float
    ) -> list[Result | Refusal]:
        """The outcome of each image, unless the client goes away before; what waits is then dropped.

        Raises:
            Refusal: no image has a result: what is wrong with the first.
            ClientDisconnect: the client has gone.
        """
        request.scope[NOTES].update(model=model.name, images=len(images))
        work = asyncio.ensure_future(model.results(images, seconds))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            outcomes = work.result()
        finally:
            work.cancel()
            gone.cancel()
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        if len(refused) == len(outcomes):
            raise refused[0]
        return outcomes

    def _of_path(self, request: Request) -> Model:
        version = request.path_params.get("version", protocol.VERSION)
        if version != protocol.VERSION:
            raise Refusal(404, f"models have the version {protocol.VERSION} only")
        return self._named(request.path_params["name"])

    def _of_query(self, request: Request) -> Model:
        name = request.query_params.get("model")
        if name is None and len(self.models) > 1:
            raise Refusal(400, f"which model? add ?model= and one of: {', '.join(self.models)}")
        return self._named(next(iter(self.models)) if name is None else name)

    def _named(self, name: str) -> Model:
        if name not in self.models:
            raise Refusal(404, f"no model {name[:50]!r}; known: {', '.join(self.models)}")
        return self.models[name]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        for model in self.models.values():
            model.close()


class Gate:
    """What every request passes: the token, the count of its answer, and a line of the log."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), GONE
        notes: dict[str, Any] = {}
        scope[NOTES] = notes

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._service.let_in(scope):
                await self._app(scope, receive, sent)
            else:
                refusal = Refusal(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
                await _refused(refusal)(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.requests.labels(route, str(status)).inc()
            self._service.metrics.request_seconds.labels(route).observe(seconds)
            client = scope.get("client")
            self._service.log(
                "request",
                client=client[0] if client else None,
                method=scope["method"][:20],
                path=scope["path"][:200],
                status=status,
                ms=round(seconds * 1e3, 3),
                **notes,
            )


def _digest(token: str | bytes) -> bytes:
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()


def _guarded(endpoint: Endpoint, log: Log) -> Endpoint:
    """An endpoint that answers whatever goes wrong in it."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            request.scope[NOTES]["error"] = refusal.text[:300]
            return _refused(refusal)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:  # a defect of ours: the client learns no details, the log does
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
            log("defect", kind=type(error).__name__, text=" ".join(str(error).split())[:300], where=where)
            return _refused(Refusal(500, "the service failed; its log says why"))

    return answer


async def _gone(request: Request) -> None:
    """Wait until the client goes away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _no_such_place(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "no such address; GET / lists them" if error.status_code == 404 else error.detail
    return _refused(Refusal(error.status_code, text, error.headers))


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Response(text, status, {"Content-Type": "application/json", **(headers or {})})


def _refused(refusal: Refusal) -> Response:
    return _json({"error": refusal.text}, refusal.status, refusal.headers)


def _health(good: bool, content: Mapping[str, Any]) -> Response:
    return _json({key: good if value is True else value for key, value in content.items()}, 200 if good else 503)


def _dicts(model: Model, images: Sequence[Image], outcomes: Sequence[Result | Refusal]) -> list[dict[str, Any]]:
    return [
        outcome.to_dict() if isinstance(outcome, Result) else model.error_dict(image, outcome)
        for image, outcome in zip(images, outcomes, strict=True)
    ]


def _wants_picture(accept: str) -> bool:
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    return "image/png" in kinds and "application/json" not in kinds


def _picture(result: Result) -> bytes:
    """PNG of what was found."""
    done, data = cv2.imencode(".png", cv2.cvtColor(result.plot(), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()
