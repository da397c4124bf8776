"""Checks the files of .github and the Compose files with the schemas that check-jsonschema brings along."""

import sys
from pathlib import Path

# jsonschema takes 4 seconds to prepare a check of addresses, unless this module is missing. These schemas need none.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

from check_jsonschema import main  # type: ignore[import-untyped]  # noqa: E402

ROOT = Path(__file__).parent.parent
CHOOSER = ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"
SCHEMAS = {
    "github-workflows": ROOT.glob(".github/workflows/*.yml"),
    "dependabot": [ROOT / ".github" / "dependabot.yml"],
    "github-issue-config": [CHOOSER],
    "github-issue-forms": set(CHOOSER.parent.glob("*.yml")) - {CHOOSER},
    "compose-spec": ROOT.glob("deploy/compose/compose*.yaml"),
}

if __name__ == "__main__":
    checks = [["--builtin-schema", f"vendor.{schema}", *map(str, paths)] for schema, paths in SCHEMAS.items()]
    sys.exit(any(main(check, standalone_mode=False) for check in checks))
