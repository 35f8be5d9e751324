"""Threads that share work: results as they come, the first error ends it, and an interruption lets answers arrive."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Stopped(Exception):
    """Work that was given up because everything stops."""


def nap(stop: threading.Event, seconds: float) -> None:
    """Waits so long, or raises Stopped as soon as everything stops."""
    if stop.wait(seconds):
        raise Stopped


def shared(
    tasks: Sequence[Task], work: Callable[[Task], Result], workers: int, stop: threading.Event
) -> Iterator[Result]:
    """work(task) for every task, by so many threads, in the order in which they end.

    When the caller is interrupted or a task fails, `stop` is set and what has begun may end; a second interruption
    leaves at once.
    """
    todo, ended = SimpleQueue[Task](), SimpleQueue[tuple[Result] | BaseException | None]()
    for task in tasks:
        todo.put(task)

    def labour() -> None:
        try:
            while not stop.is_set():
                ended.put((work(todo.get_nowait()),))
        except (Empty, Stopped):
            pass
        except BaseException as error:
            stop.set()
            ended.put(error)
        ended.put(None)

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(max(1, min(workers, len(tasks))))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            message = ended.get()
            if isinstance(message, BaseException):
                raise message
            if message is None:
                running -= 1
            else:
                yield message[0]
    except KeyboardInterrupt:
        threads = [] if stop.is_set() else threads
        stop.set()
        raise
    except BaseException:
        stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()


def beating(beat: Callable[[], None], every: float) -> Callable[[], None]:
    """Calls beat() every so many seconds in a thread, until what is returned is called."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(every):
            beat()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end
