"""The addresses of a service and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ppcls_ext.core.version import __version__
from ppcls_ext.runtime.inference import Inference
from ppcls_ext.runtime.results import Result
from ppcls_ext.serve import protocol
from ppcls_ext.serve.answers import NOTES, Endpoint, PartedResponse, answering, as_json, health, no_such_place
from ppcls_ext.serve.bodies import Bodies, images_of
from ppcls_ext.serve.guard import Guard
from ppcls_ext.serve.limits import Limits, Refusal
from ppcls_ext.serve.log import Log
from ppcls_ext.serve.metrics import CONTENT_TYPE, Metrics
from ppcls_ext.serve.model import Model
from ppcls_ext.serve.page import PAGE, PAGE_HEADERS, index, wants_page
from ppcls_ext.serve.pictures import Pictures, wants_picture
from ppcls_ext.serve.request_image import RequestImage


class Service:
    """Answers requests with the results of models.

    Args:
        models: by name; the service does not close their predictors.
        token: that requests must bear, if any; health is open to all.
    Attributes:
        draining: the service is being stopped.
        is_crowded: whether there are more connections than requests are answered on; the server sets it.
    """

    def __init__(
        self, models: Mapping[str, Model], limits: Limits, metrics: Metrics, log: Log, token: str | None = None
    ) -> None:
        self.models, self.limits, self.metrics, self.log = models, limits, metrics, log
        self.draining = False
        self.is_crowded: Callable[[], bool] = lambda: False
        self._bodies, self.pictures = Bodies(limits), Pictures()
        self._token = token

    def app(self) -> ASGIApp:
        """The ASGI application."""
        v2 = "/v2/models/{name}"
        routes: list[tuple[str, str, Endpoint]] = [
            ("GET", "/", self.index),
            ("GET", "/models", self.list_models),
            ("POST", "/predict", self.predict),
            ("GET", "/metrics", self.show_metrics),
            ("GET", "/v2", self.about),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
        ]
        for prefix in (v2, f"{v2}/versions/{{version}}"):
            routes += [
                ("GET", prefix, self.about_model),
                ("GET", f"{prefix}/ready", self.model_ready),
                ("POST", f"{prefix}/infer", self.infer),
            ]
        starlette = Starlette(
            routes=[Route(path, answering(endpoint, self.log), methods=[method]) for method, path, endpoint in routes],
            exception_handlers={HTTPException: no_such_place},
            lifespan=self._lifespan,
        )
        starlette.router.redirect_slashes = False
        return Guard(starlette, self.metrics, self.log, self._token, lambda: self.draining, lambda: self.is_crowded())

    async def index(self, request: Request) -> Response:
        """GET /"""
        if wants_page(request.headers.get("accept", "")):
            return Response(PAGE, headers=PAGE_HEADERS, media_type="text/html")
        return PlainTextResponse(index(self.models, str(request.base_url)), headers={"Vary": "Accept"})

    async def list_models(self, request: Request) -> Response:
        """GET /models"""
        return as_json([model.about() for model in self.models.values()])

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics"""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live: 503 where only a restart helps."""
        return health(not any(model.hung for model in self.models.values()), {"live": True})

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready: 503 while a model is not fit for work, and once the service is being stopped."""
        fit = {name: model.ready for name, model in self.models.items()}
        return health(all(fit.values()) and not self.draining, {"ready": True})

    async def about(self, request: Request) -> Response:
        """GET /v2"""
        return as_json({"name": "pplcnet", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def about_model(self, request: Request) -> Response:
        """GET /v2/models/NAME"""
        model = self._of_path(request)
        return as_json(protocol.metadata(model.name, model.task))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready"""
        model = self._of_path(request)
        return health(model.ready and not self.draining, {"name": model.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer"""
        model = self._of_path(request)
        if request.query_params:
            name = next(iter(request.query_params))
            raise Refusal(400, f"parameter {name[:50]!r}: this address takes none; POST /predict does")
        model.check_room()
        async with self._bodies.read(request) as body:
            asked = await protocol.read_request(body, request.headers.get(protocol.HEADER), self.limits)
            seconds = self.limits.deadline_s
            async with model.accept(asked.images) as images:
                outcomes = await self._results(
                    request, model, images, seconds if asked.seconds is None else min(seconds, asked.seconds)
                )
                found = _dicts(model, asked.images, outcomes)
                del outcomes  # what counts as held is let go with the context
        content, headers = protocol.write_answer(asked, model.name, found)
        return PartedResponse(content, headers=headers)

    async def predict(self, request: Request) -> Response:
        """POST /predict"""
        model = self._of_query(request)
        inference, mapped = _settings(model, request.query_params)
        model.check_room()
        async with self._bodies.read(request) as body:
            images, several = await images_of(request.headers, body, self.limits)
            drawn = wants_picture(request.headers.get("accept", ""))
            if drawn and several:
                raise Refusal(400, "a picture is drawn of one image: send it alone as the body, or as JSON image")
            async with model.accept(images) as accepted:
                outcomes = await self._results(request, model, accepted, self.limits.deadline_s, inference)
                if drawn and isinstance(outcomes[0], Result):
                    return await self.pictures.answer(request, outcomes[0])
                found = _dicts(model, images, outcomes)
                if mapped:
                    await self.pictures.add_class_maps(found, outcomes)
        answer = as_json(found if several else found[0])
        return self.pictures.holding(answer) if mapped else answer

    async def _results(
        self,
        request: Request,
        model: Model,
        images: Sequence[RequestImage | Refusal],
        seconds: float,
        inference: Inference | None = None,
    ) -> list[Result | Refusal]:
        """The outcome of each image, unless the client goes away before; what waits is then dropped.

        Raises:
            Refusal: no image has a result: what is wrong with the first.
            ClientDisconnect: the client has gone.
        """
        request.scope[NOTES].update(model=model.name, images=len(images))
        work = asyncio.ensure_future(model.results(images, seconds, inference))
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


async def _gone(request: Request) -> None:
    """Wait until the client goes away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _dicts(model: Model, images: Sequence[RequestImage], outcomes: Sequence[Result | Refusal]) -> list[dict[str, Any]]:
    return [
        outcome.to_dict() if isinstance(outcome, Result) else model.error_dict(image, outcome)
        for image, outcome in zip(images, outcomes, strict=True)
    ]


def _settings(model: Model, query: QueryParams) -> tuple[Inference | None, bool]:
    """What a request's query sets beside the model: what makes the results, and whether they carry a map of classes.

    Raises:
        Refusal: 400 for a parameter that there is not, or a value that it does not take.
    """
    known = ["model", *model.options.defaults, *(["mask"] if model.palette else [])]
    for name, _ in query.multi_items():
        if name not in known:
            raise Refusal(400, f"parameter {name[:50]!r}: model {model.name} takes {', '.join(known)}")
        if len(query.getlist(name)) > 1:
            raise Refusal(400, f"parameter {name!r} is given twice")
    mask = query.get("mask", "0")
    if mask not in ("0", "1"):
        raise Refusal(400, f"mask: expected 0 or 1, got {mask[:50]!r}")
    inference = model.options.inference({name: query[name] for name in model.options.defaults if name in query})
    return inference, mask == "1"
