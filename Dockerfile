# Stages: `api` has no torch, `worker` has it, `worker-tensorflow` has TensorFlow too. All run as an unprivileged user.
#   docker build --target api -t tunesmith-api .
#   docker build --target worker -t tunesmith-worker .
#   docker build --target worker-tensorflow -t tunesmith-worker-tensorflow .

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 TUNESMITH_DATA_DIR=/var/lib/tunesmith
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tunesmith tunesmith
WORKDIR /opt/tunesmith
COPY pyproject.toml requirements.lock README.md LICENSE ./

FROM base AS api
# The lock file constrains, so that only what the service itself needs is installed.
COPY app app
COPY migrations migrations
COPY worker/__init__.py worker/__init__.py
RUN pip install --constraint requirements.lock .
USER 10001
VOLUME /var/lib/tunesmith
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["python", "-P", "-m", "app", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
# torch goes first and alone: nothing after it may move it.
RUN pip install "$(grep '^torch==' requirements.lock)"
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --constraint requirements.lock ".[worker]"
USER 10001
VOLUME /var/lib/tunesmith
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-P", "-m", "worker.health"]
STOPSIGNAL SIGTERM
CMD ["python", "-P", "-m", "worker"]

FROM worker AS worker-tensorflow
USER 0
COPY requirements-tensorflow.lock ./
RUN python -m venv /opt/tensorflow && /opt/tensorflow/bin/pip install --no-deps --requirement requirements-tensorflow.lock
ENV TUNESMITH_TENSORFLOW_PYTHON=/opt/tensorflow/bin/python
USER 10001
