"""The limits that an operator sets for a project."""

from pydantic import BaseModel, ConfigDict, Field


class ProjectLimits(BaseModel):
    """None: no limit."""

    model_config = ConfigDict(extra="ignore")

    priority_ceiling: int | None = Field(default=None, ge=-100, le=100, description="The highest priority of its jobs.")
    queued_jobs: int | None = Field(default=None, ge=0, description="Jobs that wait at the same time.")
    datasets: int | None = Field(default=None, ge=0, description="Datasets.")
    dataset_bytes: int | None = Field(default=None, ge=0, description="Bytes of all its uploaded files together.")
    gpu_seconds_per_month: int | None = Field(default=None, ge=0, description="GPU-seconds of the jobs of a month.")
    cpu_seconds_per_month: int | None = Field(
        default=None, ge=0, description="Seconds that the jobs of a month run without a GPU."
    )
    log_days: float | None = Field(
        default=None, gt=0, description="Days after the end of a job for which the text output of a job is kept."
    )
    checkpoint_days: float | None = Field(
        default=None, gt=0, description="Days after the end of a job for which checkpoints are kept."
    )
    model_days: float | None = Field(
        default=None, gt=0, description="Days after the end of a job for which published models are kept."
    )
    dataset_days: float | None = Field(
        default=None, gt=0, description="Days for which datasets are kept after their upload and their last job."
    )
