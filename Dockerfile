# Serves a bundle that is mounted at /bundle, to users whose keys are in /keys:
#   docker build -t beeline .                          for processors
#   docker build -t beeline --build-arg TORCH=cu128 .  for NVIDIA GPUs; run it with --gpus all
#   docker run -p 127.0.0.1:8000:8000 -v ./demo/distilled:/bundle:ro -v ./keys:/keys:ro beeline
FROM python:3.12-slim

# the folder of download.pytorch.org/whl whose builds of torch are used: cpu, cu126, cu128, ...
ARG TORCH=cpu

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 NVIDIA_VISIBLE_DEVICES=all

WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/${TORCH}
COPY beeline beeline
RUN pip install -c constraints.txt '.[serve,redis,tables]' && rm -rf /source/*

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin beeline
USER 10001
WORKDIR /tmp

EXPOSE 8000
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# loading is finished when /ready answers; SIGINT ends the service after the requests that run
ENTRYPOINT ["beeline", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/bundle", "--keys", "/keys"]
