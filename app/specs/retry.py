"""The body of `POST /v1/jobs/{id}/retry`."""

from typing import Annotated, Literal

from pydantic import Field

from app.specs.strict import Strict


class Retry(Strict):
    """How a job that has ended is retried."""

    from_checkpoint: Annotated[int, Field(ge=0, le=2**62)] | Literal["latest"] | None = Field(
        default=None,
        description="Continue from the checkpoint of this step, or from the `latest`. Without it: from the start.",
    )
