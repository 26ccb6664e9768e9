"""Every setting, documented once. Read from the environment, prefix `TUNESMITH_`."""

from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024**2
GIB = 1024**3
SHORTEST_SECRET_KEY = 32


class Settings(BaseSettings):
    """Settings of the API, the worker and the command line; all have defaults that fit one machine."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", env_ignore_empty=True, extra="ignore")

    data_dir: Path = Field(
        default_factory=lambda: Path.home() / ".tunesmith",
        description="The folder for everything that has no setting of its own. Default: `.tunesmith` in the "
        "home directory.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL, `postgresql+psycopg://…` or `sqlite:///…`. Empty: a SQLite file in the "
        "data directory.",
    )
    broker_url: str = Field(default="", description="Redis URL of the Celery broker. Empty: workers poll the database.")
    storage_url: str = Field(
        default="",
        description="`file:///…`, `s3://bucket/prefix`, `gs://…` or `az://…`. Empty: a folder in the data directory. "
        "Cloud credentials and endpoints come from the cloud's own variables, such as `AWS_ENDPOINT_URL`.",
    )
    models_dir: Path | None = Field(
        default=None, description="The folder of `local:NAME` models. Empty: `models` in the data directory."
    )
    cache_dir: Path | None = Field(
        default=None, description="Scratch space and local copies. Empty: `cache` in the data directory."
    )

    api_key: str = Field(
        default="", description="The key the command line uses. Empty: the file `api-key` in the data directory."
    )
    secret_key: str = Field(
        default="",
        description="Encrypts the secrets of webhooks in the database: any text of 32 characters or more, the same for all API "
        "processes. Empty: the file `secret-key` in the data directory, which `tunesmith up` writes; without it, they are stored "
        "as they are.",
    )
    url: str = Field(default="http://127.0.0.1:8000", description="The address of the service, for the command line.")

    connection_limit: int = Field(
        default=0,
        ge=0,
        description="Open connections of one API process. 0: 4096, or fewer if the system allows it fewer descriptors.",
    )
    head_timeout_seconds: float = Field(
        default=15.0, gt=0, description="How long a client may take to send the head of a request."
    )
    body_timeout_seconds: float = Field(
        default=30.0, gt=0, description="How long a client may take to send a kilobyte of a body."
    )
    send_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        description="How long a client may read nothing of a response. Then its connection is closed.",
    )

    rate_limit: str = Field(
        default="",
        description="Requests of one key, such as `600/minute` or `20/second`. Empty: no limit. Processes that share a Redis "
        "broker count together.",
    )
    failed_sign_in_limit: str = Field(
        default="300/minute",
        description="Requests with a missing or wrong key from one address. Above it, they get 429 instead of 401. Empty: no limit.",
    )
    upload_limit_bytes: int = Field(default=5 * GIB, ge=1, description="Largest upload, in bytes.")
    unpacked_limit_bytes: int = Field(
        default=20 * GIB, ge=1, description="Largest size of a gzip upload after decompression, in bytes."
    )
    body_limit_bytes: int = Field(default=2 * MIB, ge=1024, description="Largest JSON body, in bytes.")
    intake_memory_bytes: int = Field(
        default=4 * GIB, ge=256 * MIB, description="Memory the process that parses an upload may use."
    )
    intake_timeout_seconds: int = Field(default=600, ge=1, description="How long parsing an upload may take.")
    intake_slots: int = Field(
        default=2, ge=1, le=64, description="Uploads that one API process parses at the same time; others wait."
    )
    row_check_limit: int = Field(
        default=200_000,
        ge=0,
        description="Rows of each split that are checked when a job is submitted; the worker checks all rows.",
    )
    cache_limit_bytes: int = Field(
        default=50 * GIB,
        ge=0,
        description="Size limit of local copies of datasets and models, in bytes. The oldest copies are evicted first.",
    )
    token_cache_bytes: int = Field(
        default=20 * GIB,
        ge=0,
        description="Size limit of the tokenized rows that a worker keeps for later jobs, in bytes. The least "
        "recently used rows are evicted first. 0 disables the cache.",
    )

    slots: int = Field(
        default=1, ge=1, le=64, description="Jobs a worker runs at once. Each job on a GPU has a GPU of its own."
    )
    threads_per_slot: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads that one job computes with. Empty: the worker's cores divided by its slots. "
        "Very small models are faster with 1.",
    )
    poll_seconds: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="How often an idle worker looks for work, with or without a broker.",
    )
    lease_seconds: float = Field(
        default=60.0, ge=1, description="How long a worker may be silent before its job goes to another worker."
    )
    heartbeat_seconds: float = Field(default=10.0, gt=0, description="How often a worker renews its lease.")
    sweep_seconds: float = Field(
        default=5.0, gt=0, description="How often one of the processes looks for expired leases and overdue jobs."
    )
    upkeep_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="How often one of the API processes removes files from the storage that dead processes left there.",
    )
    retain_log_days: float | None = Field(
        default=None, gt=0, description="Days after the end of a job for which its text output is kept. Empty: forever."
    )
    retain_checkpoint_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after the end of a job for which its checkpoints are kept. Empty: forever.",
    )
    retain_model_days: float | None = Field(
        default=None, gt=0, description="Days after the end of a job for which its model is kept. Empty: forever."
    )
    retain_dataset_days: float | None = Field(
        default=None,
        gt=0,
        description="Days for which a dataset is kept after its upload and the submission of the last job that reads it. "
        "Empty: forever.",
    )
    stop_grace_seconds: float = Field(default=30.0, gt=0, description="From SIGTERM to SIGKILL of a training process.")
    max_failures: int = Field(default=5, ge=1, description="Failed attempts after which a job fails for good.")
    max_workers_lost: int = Field(default=10, ge=1, description="Lost workers after which a job fails for good.")
    max_stalled: int = Field(
        default=5, ge=1, description="Attempts in a row without a new training step after which a job fails for good."
    )
    hung_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="A training process that reports nothing for this long is killed, and the job is retried.",
    )
    training_memory_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Memory that each training process may allocate, in bytes; 0 sets no limit. A process that "
        "needs more ends with `out_of_memory` and affects nothing else on the machine. Empty: on a worker without GPUs, nine "
        "tenths of the machine's or container's memory, divided by the slots; with GPUs no limit, because CUDA reserves far "
        "more memory than it uses.",
    )
    sandbox: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="Whether training processes may read and write only what they need (Landlock, Linux 5.13 or later). "
        "`auto`: where the kernel can. `required`: a worker on a kernel that cannot does not start.",
    )
    sandbox_readable: str = Field(
        default="",
        description="More folders that training processes may read, separated by `:`, such as those of drivers.",
    )
    sandbox_writable: str = Field(
        default="", description="More folders that training processes may write, separated by `:`."
    )
    training_environment: str = Field(
        default="",
        description="More environment variables that training processes get, separated by commas. They get those of "
        "Python, CUDA, the hub and the numerical libraries, and no others.",
    )
    database_patience_seconds: float = Field(
        default=600.0,
        gt=0,
        description="How long training continues while the database is unreachable. Then it saves a checkpoint "
        "and ends.",
    )
    engine_seconds: float = Field(
        default=60.0,
        gt=0,
        description="If no live worker can run a job for this long, because none offers its engine or knows its "
        "features, the event log of the job gets a note.",
    )
    tensorflow_python: Path | None = Field(
        default=None,
        description="The interpreter of the environment with TensorFlow, for workers. Empty: "
        "`.venv-tensorflow/bin/python` next to the code, where `make install-tensorflow` puts it. A "
        "worker without this interpreter does not offer the engine.",
    )
    backoff_seconds: float = Field(
        default=2.0, ge=0, description="Wait before the second attempt. It doubles with each failure, up to a minute."
    )
    webhook_private_addresses: bool = Field(
        default=False,
        description="Allow webhooks to internal addresses and over plain http. Anyone with a key can then send "
        "requests to whatever the API can reach.",
    )

    @field_validator("secret_key")
    @classmethod
    def _is_long_enough(cls, key: str) -> str:
        if key and len(key) < SHORTEST_SECRET_KEY:
            raise ValueError(f"must have at least {SHORTEST_SECRET_KEY} characters")
        return key

    @field_validator("rate_limit", "failed_sign_in_limit")
    @classmethod
    def _is_a_rate(cls, rate: str) -> str:
        from limits import parse  # noqa: PLC0415 - commands without such a setting need not import it

        if rate:
            parse(rate)
        return rate

    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'tunesmith.db'}"

    def storage(self) -> str:
        """The storage URL in force."""
        return self.storage_url or f"file://{quote(str(self.data_dir.absolute() / 'storage'))}"

    def models(self) -> Path:
        """The folder of local models in force."""
        return (self.models_dir or self.data_dir / "models").absolute()

    def cache(self) -> Path:
        """The scratch folder in force."""
        return (self.cache_dir or self.data_dir / "cache").absolute()

    def tensorflow(self) -> Path:
        """The path of the interpreter with TensorFlow."""
        default = Path(__file__).resolve().parent.parent / ".venv-tensorflow" / "bin" / "python"
        # The path is not resolved: the python of an environment is a symlink, and uses the environment only under this
        # path.
        return (self.tensorflow_python or default).absolute()

    def secret_key_file(self) -> Path:
        """The file with the key that encrypts secrets in the database."""
        return self.data_dir / "secret-key"

    def key_file(self) -> Path:
        """The file into which `tunesmith up` writes the first API key."""
        return self.data_dir / "api-key"
