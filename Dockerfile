# The hedgerow command as an image: dependencies and compiled kernels inside, no compiler run at the first record, no root.
# The kernels are compiled for the processor of the machine that builds the image: build it on the kind of machine that runs it.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/hedgerow
COPY requirements.lock ./
RUN /opt/hedgerow/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY state state
COPY operators operators
COPY connectors connectors
COPY flows flows
RUN /opt/hedgerow/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin hedgerow
COPY --from=build /opt/hedgerow /opt/hedgerow
ENV PATH=/opt/hedgerow/bin:$PATH PYTHONUNBUFFERED=1 HEDGEROW_NUMBA_CACHE=/opt/hedgerow-kernels
# numba keys its cache on the source files' times, which COPY keeps, so what is compiled here is found at run time
RUN mkdir /opt/hedgerow-kernels && chown hedgerow /opt/hedgerow-kernels
USER hedgerow
RUN hedgerow warm
ENTRYPOINT ["hedgerow"]
CMD ["--help"]
