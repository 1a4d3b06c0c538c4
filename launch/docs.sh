#!/usr/bin/env bash
# The documentation as a site, in site/: it opens from the file system, without a network. A broken link is an error.
# Arguments go to mkdocs, for example: bash launch/docs.sh --site-dir /tmp/site
set -euo pipefail
. "$(dirname "$0")/environment.sh"
python -c 'import mkdocstrings' 2>/dev/null || python -m pip --disable-pip-version-check --quiet --no-input install -e '.[docs]'
export NO_MKDOCS_2_WARNING=1
exec python -m mkdocs build --strict "$@"
