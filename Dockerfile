# The image of the backup sidecar. Every byte is signed by Debian or locked by hash from PyPI; nothing else is
# downloaded, so amd64 and arm64 are built alike. Needs BuildKit (engine 20.10 or newer); there is no `# syntax=` line
# because it would pull a front end from a registry.
#
#   docker buildx build --tag obcms-backup:latest .      (or tools/build, which also fills in version and revision)

# --- the scheduler: packaged from forky on; a Go binary that needs no more than glibc 2.34
FROM debian:forky-slim AS scheduler
RUN --mount=type=cache,id=apt-forky,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
 && apt-get install -y --no-install-recommends supercronic

# --- PostgreSQL clients for the network way, which needs those of the server's own major version. /out becomes
# /usr/lib/postgresql in the image. To add a major, add a stage like these (Debian has one per release) and its COPY.
# Only the programs are taken: the package's dependencies would bring Perl.
FROM debian:bookworm-slim AS client-15
RUN --mount=type=cache,id=apt-bookworm,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
 && apt-get install -y --no-install-recommends postgresql-client-15 \
 && mkdir -p /out/15/bin \
 && cd /usr/lib/postgresql/15/bin && cp pg_dump pg_dumpall psql pg_basebackup pg_receivewal /out/15/bin/

FROM debian:trixie-slim AS client-17
RUN --mount=type=cache,id=apt-trixie,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
 && apt-get install -y --no-install-recommends postgresql-client-17 \
 && mkdir -p /out/17/bin \
 && cd /usr/lib/postgresql/17/bin && cp pg_dump pg_dumpall psql pg_basebackup pg_receivewal /out/17/bin/

# A libpq serves older clients (15 and 17 use trixie's) but no newer ones, so 18 brings its own. Whoever starts a client
# sets LD_LIBRARY_PATH to <major>/lib if that is there.
FROM debian:forky-slim AS client-18
RUN --mount=type=cache,id=apt-forky,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
 && apt-get install -y --no-install-recommends postgresql-client-18 \
 && mkdir -p /out/18/bin /out/18/lib \
 && cd /usr/lib/postgresql/18/bin && cp pg_dump pg_dumpall psql pg_basebackup pg_receivewal /out/18/bin/ \
 && cp -L /usr/lib/*-linux-gnu*/libpq.so.5 /out/18/lib/

# --- Python with the libraries this product uses, and no more of the standard library than that
FROM debian:trixie-slim AS runtime
# libpython3-stdlib and not python3: that is the interpreter without documentation tools. tzdata-legacy: names such as
# Asia/Calcutta or US/Pacific still stand in many an .env. libpq5, libreadline8, liblz4 and libzstd: for the clients.
# The standard library is compiled here, because the container's file system is read-only.
RUN --mount=type=cache,id=apt-trixie,target=/var/lib/apt/lists,sharing=locked \
    --mount=type=tmpfs,target=/var/log \
    apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates libpq5 liblz4-1 libpython3-stdlib libreadline8t64 libzstd1 python3-minimal tzdata tzdata-legacy \
 && rm -rf /usr/share/doc/* /usr/share/man/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/* \
      /usr/share/zoneinfo/right /usr/lib/python3.*/pydoc_data /usr/lib/python3.*/test /usr/lib/python3.*/turtle.py \
 && python3 -m compileall -q -j 0 /usr/lib/python3.*

FROM debian:trixie-slim AS python
RUN --mount=type=cache,id=apt-trixie,target=/var/lib/apt/lists,sharing=locked \
    apt-get update \
 && apt-get install -y --no-install-recommends python3-venv
# pip lives in a virtual environment of its own and fills another one that has none.
RUN python3 -m venv /pip && python3 -m venv --without-pip /app/venv
COPY requirements.lock /
RUN --mount=type=cache,id=pip,target=/root/.cache/pip \
    /pip/bin/pip --python /app/venv/bin/python --disable-pip-version-check \
      install --no-compile --require-hashes --only-binary :all: --requirement /requirements.lock \
 && rm -f /app/venv/bin/activate* /app/venv/bin/Activate* \
 && cd /app/venv/lib/python3.*/site-packages \
 && rm -rf boto3/examples boto3/data/[!s]* boto3/data/s[!3]* \
 # Of Amazon's 400 services: S3, and those that boto3 asks for the credentials of a role or a login.
 && find botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} + \
 && /app/venv/bin/python -m compileall -q -j 0 /app/venv/lib

FROM runtime AS application
COPY backup /app/backup
COPY entrypoint.py /app/
# Unchecked: the files never change in an image, so there is no need to look at their dates at every start.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app && chmod -R a+rX,go-w /app
# In a running container: docker compose exec backup backup list. A second service is never what is meant there.
RUN printf '%s\n' '#!/bin/sh' 'exec /app/venv/bin/python /app/entrypoint.py "${@:---help}"' > /usr/local/bin/backup \
 && chmod 755 /usr/local/bin/backup

# --- the image
FROM runtime
COPY --from=scheduler /usr/bin/supercronic /usr/local/bin/supercronic
COPY --from=client-15 /out /usr/lib/postgresql
COPY --from=client-17 /out /usr/lib/postgresql
COPY --from=client-18 /out /usr/lib/postgresql
COPY --from=python /app/venv /app/venv
# What comes from other Debian releases must start here with every symbol found, or there is no image.
# The mount points are there for a read-only root, and private. No VOLUME: an anonymous volume would hide that the
# operator forgot to mount one.
RUN for home in /usr/lib/postgresql/*; do \
      for program in pg_dump pg_dumpall psql pg_basebackup pg_receivewal; do \
        env LD_BIND_NOW=1 LD_LIBRARY_PATH="$home/lib" "$home/bin/$program" --version || exit 1; \
      done; \
    done \
 && supercronic -version \
 && /app/venv/bin/python -c 'import boto3, docker, isal.isal_zlib, jinja2, prometheus_client, psycopg, pydantic, pyrage, typer, uvicorn; boto3.client("s3", region_name="us-east-1"); boto3.client("sts", region_name="us-east-1")' \
 && mkdir -m 700 /backups /volumes /spool
COPY --from=application /usr/local/bin/backup /usr/local/bin/backup
COPY --from=application /app /app

# glibc would give every freed megabyte back to the kernel and fault it in again: a fifth of a run's time. In one arena
# for all threads what one of them frees is there for the others.
ENV MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=67108864 \
    MALLOC_TOP_PAD_=16777216 \
    container=oci \
    PATH=/app/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    PYDANTIC_DISABLE_PLUGINS=__all__ \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
EXPOSE 8080
STOPSIGNAL SIGTERM
# The probe waits while the first backup runs, for hours if need be, and has its own timeout of seconds otherwise.
# One failed look is enough: it judges what lies on the disk, not a network.
HEALTHCHECK --interval=30s --timeout=6h --start-period=60s --retries=1 \
  CMD ["/app/venv/bin/python", "-m", "backup.service.probe"]
ENTRYPOINT ["/app/venv/bin/python", "/app/entrypoint.py"]
CMD ["serve"]

# Last, because they change with every commit.
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="OBCMS backup" \
      org.opencontainers.image.description="Backup sidecar for OBCMS: proven dumps of PostgreSQL and media volumes in a Compose stack" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="debian:trixie-slim" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
