"""The promise that a method runs as it was published."""

from collections.abc import Mapping

from foilrec.errors import BadOption


def promise(part: str, faithful: bool, chosen: Mapping[str, tuple[object, object]]) -> None:
    """Raises BadOption if faithful is promised and an option, name -> (chosen, published), departs from the paper."""
    for name, (value, published) in chosen.items() if faithful else ():
        if value != published:
            raise BadOption(f"{part}: faithful = true means {name} = {published!r}, not {value!r}.")
