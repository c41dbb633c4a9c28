"""Who works when: messages and tasks in, attempts at turns out."""

from __future__ import annotations

from dataclasses import replace

from host import intake
from host.attempt import Attempt
from host.errors import UserError
from host.house import House
from host.model import Group, Task, TaskRun
from host.post import Post
from host.tasks import Scheduler
from host.turns import Command, Feed, Start, Turns


class Work:
    """Owns the attempts that run and what waits for one; `Turns` decides, this carries out."""

    def __init__(self, house: House, post: Post, groups: dict[str, Group]) -> None:
        """`groups`: those that are registered, by folder; the same dict is changed here."""
        self._house, self._post, self.groups = house, post, groups
        self._turns = Turns(house.config.max_sandboxes)
        self.attempts: dict[str, Attempt] = {}
        self._runs: dict[str, TaskRun] = {}
        """Runs that wait for their turn, by task."""
        self._sees_to_tasks = False
        self._scheduler = Scheduler(house.loop, house.store, self._zone_of, self._task_due, house.log)

    def open(self, *, tasks: bool) -> None:
        """Take up what an earlier host left. `tasks`: also see to those that are due."""
        for folder in self._house.store.groups_with_pending():
            self.take_up(self.groups[folder])
        self._sees_to_tasks = tasks
        if tasks:
            self._scheduler.start()

    def close(self) -> None:
        """Turns that run are left pending: the next host answers them."""
        self._scheduler.stop()
        for attempt in self.attempts.values():
            attempt.abandon()

    # --- messages ---------------------------------------------------------------------------------

    def take_up(self, group: Group) -> bool:
        """A turn for what is pending, if any of it calls the agent. Else it is only context for the next one
        that does, and is not looked at again."""
        if self._wanted(group):
            self._carry_out(self._turns.message_arrived(group.folder))
            return True
        self._house.store.pass_over(group.folder)
        return False

    def _wanted(self, group: Group) -> bool:
        store = self._house.store
        pending = store.pending(group.folder)
        try:
            settings = self._house.config.group(group)
        except UserError:
            return any(True for _ in pending)  # a turn, which says what is wrong with the group's settings
        senders = settings.senders
        if senders is not None:  # whichever of their ids was written down
            senders = tuple(store.messages.person(group.channel, each) for each in senders)
        return intake.wants_agent(settings.trigger, senders, pending)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(folder, task):
                    self._start(folder, self._runs.pop(task) if task else None)
                case Feed(folder):
                    self.attempts[folder].feed()

    def _start(self, folder: str, run: TaskRun | None) -> None:
        attempt = self.attempts[folder] = Attempt(self._house, self.groups[folder], self._turn_ended, run)
        self._post.typing(self.groups[folder], run is None)
        # From the loop, not from here: an attempt that fails at once ends its turn, and must not do so inside the
        # call that started it.
        self._house.loop.call_soon(attempt.start)

    def _turn_ended(self, group: Group) -> None:
        attempt = self.attempts.pop(group.folder)
        self._post.typing(group, on=False)
        if attempt.run is not None:
            self._scheduler.changed()
        kept = self.groups.get(group.folder)
        more = kept is not None and self._wanted(kept)
        if kept is not None and not more:
            self._house.store.pass_over(group.folder)
        self._carry_out(self._turns.turn_ended(group.folder, more))
        if kept is not None:
            self.keep_warm(kept)

    def keep_warm(self, group: Group) -> None:
        if group.folder in self.attempts:
            return
        try:
            self._house.pool.keep_warm(group)
        except UserError as e:  # the next turn will meet it too, and tells the person then
            self._house.log.warning("no warm sandbox", group=group.folder, why=str(e))

    # --- tasks ------------------------------------------------------------------------------------

    def tasks_changed(self) -> None:
        self._scheduler.changed()

    def _task_due(self, run: TaskRun) -> None:
        self._runs[run.task.id] = run
        self._queue(run.task.id)

    def run_task(self, run: TaskRun) -> None:
        """Now, because someone asked: from the loop, since who asked may be a turn that is at work. Where this host
        sees to no tasks, the run is on record as waiting, and the next one takes it up."""
        if self._sees_to_tasks:
            self._runs[run.task.id] = run  # it waits from here on, and may be cancelled before the loop comes to it
            self._house.loop.call_soon(lambda: self._queue(run.task.id))

    def _queue(self, task: str) -> None:
        if run := self._runs.get(task):
            self._carry_out(self._turns.task_due(run.task.group, task))

    def task_updated(self, task: Task) -> None:
        if task.id in self._runs:
            self._runs[task.id] = replace(self._runs[task.id], task=task)

    def running(self, folder: str) -> TaskRun | None:
        attempt = self.attempts.get(folder)
        return attempt.run if attempt is not None else None

    def task_cancelled(self, task: str) -> None:
        self._turns.cancel_task(task)
        self._runs.pop(task, None)

    def _zone_of(self, folder: str) -> str:
        return self._house.config.group(self.groups[folder]).timezone

    # --- groups -----------------------------------------------------------------------------------

    def group_changed(self, folder: str) -> None:
        group = self._house.store.group(folder)
        if group is None:
            self.groups.pop(folder, None)
            self._house.pool.drop(folder)
        else:
            self.groups[group.folder] = group
        self._scheduler.changed()

    def stop_group(self, folder: str, why: str) -> None:
        """It is about to be removed or moved: nothing of it runs or waits any more when this returns, and nothing of
        it is started until `group_changed` says what became of it."""
        for task in [task for task, run in self._runs.items() if run.task.group == folder]:
            self.task_cancelled(task)
        self._turns.forget(folder)
        self.groups.pop(folder, None)
        attempt = self.attempts.get(folder)
        if attempt is not None:
            attempt.stop(why)
        if folder in self.attempts:
            raise UserError(f"the turn of {folder} cannot be ended now", "try again in a moment")
