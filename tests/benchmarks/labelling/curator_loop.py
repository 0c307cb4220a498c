"""The same job by bespokelabs-curator, in an environment that has it and nothing of ours.

Run as `PYTHON -m tests.benchmarks.labelling.curator_loop BASE_URL TEXTS.jsonl LEAVES.json --cache DIR
--concurrency N` from the repository's root. One pass: its cache keeps one answer a prompt.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from tests.benchmarks.labelling.marks import mark, mark_idle
from tests.benchmarks.labelling.plain_requests import schema, system_prompt


def main() -> None:
    """Ask everything once, between two marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("texts", type=Path)
    parser.add_argument("leaves", type=Path)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    _quiet()
    from bespokelabs import curator  # type: ignore[import-not-found, unused-ignore]

    leaves = json.loads(options.leaves.read_text())
    texts = [json.loads(line) for line in options.texts.read_text().splitlines()]
    form = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema(leaves)},
    }

    class Labeller(curator.LLM):  # type: ignore[misc, unused-ignore]
        def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
            return [
                {"role": "system", "content": system_prompt(leaves, 1)},
                {"role": "user", "content": f"<item>\n{row['text']}\n</item>"},
            ]

        def parse(self, row: dict[str, Any], response: Any) -> dict[str, Any]:
            said = json.loads(response if isinstance(response, str) else response["content"])
            return {"text": row["text"], "label": said["label"]}

    mark_idle()
    mark("begin")
    labeller = Labeller(
        model_name="simulated-teacher",
        backend="openai",
        generation_params={"temperature": 0.0, "max_tokens": 300, "seed": 1, "response_format": form},
        backend_params={
            "base_url": options.base_url,
            "api_key": "none-needed-on-loopback",
            "max_requests_per_minute": 10_000_000,
            "max_tokens_per_minute": 10_000_000_000,
            "max_concurrent_requests": options.concurrency,
        },
    )
    answered = labeller([{"text": text} for text in texts], working_dir=options.cache)
    rows = getattr(answered, "dataset", answered)
    mark("end", result={"answered": sum(bool(row["label"]) for row in rows)})


def _quiet() -> None:
    os.environ.update(TELEMETRY_ENABLED="false", CURATOR_VIEWER="false", CURATOR_DISABLE_RICH_DISPLAY="1")
    import litellm  # type: ignore[import-not-found, unused-ignore]

    # litellm carries the token table that tiktoken would fetch from the network.
    tables = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(tables))


if __name__ == "__main__":
    main()
