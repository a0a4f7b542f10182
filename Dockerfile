# Serving image: no torch, no compiler, not root. BASE may be any image with Python 3.11 and venv, such as python:3.11-slim.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
COPY pyproject.toml README.md LICENSE /src/
COPY models /src/models
COPY service /src/service
COPY stancewire /src/stancewire
# The package lists these; serving does not run them.
COPY training/__init__.py /src/training/__init__.py
COPY training/corpus/__init__.py training/corpus/CODEBOOK.md /src/training/corpus/
RUN python3 -m venv /opt/stancewire \
 && /opt/stancewire/bin/pip install --no-cache-dir --quiet "/src[registry]" \
 && /opt/stancewire/bin/pip uninstall --quiet --yes pip \
 && find /opt/stancewire -name __pycache__ -type d -prune -exec rm -rf {} +

FROM ${BASE}
COPY --from=build /opt/stancewire /opt/stancewire
RUN useradd --uid 10001 --create-home stancewire
USER 10001
WORKDIR /home/stancewire
# Behind a published port every caller seems to come from elsewhere; without a file of keys, classify is open to all of them.
ENV PATH=/opt/stancewire/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    STANCEWIRE_HOST=0.0.0.0 STANCEWIRE_PORT=8000 STANCEWIRE_OPEN_CLASSIFY=true
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD \
  ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['STANCEWIRE_PORT'] + '/readyz', timeout=2)"]
CMD ["stancewire", "serve"]
