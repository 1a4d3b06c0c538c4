#!/usr/bin/env bash
# The tests of the report in a real browser: brings Chromium where it is missing, then runs them. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
find_browser() { command -v chromium-headless-shell || command -v chromium || command -v chromium-browser || command -v google-chrome; }
bring_browser() {
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends chromium-headless-shell || apt-get install -y -qq --no-install-recommends chromium
    else
        playwright install --only-shell chromium
    fi
}
find_browser >/dev/null || bring_browser || echo "Chromium cannot be installed here: its tests are skipped"
export OMP_NUM_THREADS=1
exec python -m pytest -m slow tests/report/test_report_page.py "$@"
