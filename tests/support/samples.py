"""Samples of the text format, by name and labels."""

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, float]


def parse_samples(text: str) -> Samples:
    """Samples of the text format by `name{label="value",…}` with sorted labels."""
    return {
        sample_key(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample_key(name: str, /, **labels: str) -> str:
    """The key of a sample in `Samples`."""
    return name + ("{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}" if labels else "")


def documents(samples: Samples, field: str = "", *, account: str = "default") -> dict[tuple[str, str], float]:
    """One of the document gauges by (destination, batch status)."""
    name = "inkit_batch_documents" + (f"_{field}" if field else "")
    found = {}
    for family in text_string_to_metric_families("\n".join(f"{key} {value}" for key, value in samples.items()) + "\n"):
        for sample in family.samples:
            if sample.name == name and sample.labels["account"] == account:
                found[sample.labels["destination"], sample.labels["batch_status"]] = sample.value
    return found


def up(samples: Samples, account: str = "default") -> float | None:
    """`inkit_up` of an account, None while it is absent."""
    return samples.get(sample_key("inkit_up", account=account))


def failures(samples: Samples, reason: str, account: str = "default") -> float:
    """`inkit_poll_failures_total` of one reason."""
    return samples[sample_key("inkit_poll_failures_total", account=account, reason=reason)]
