"""The socket that `study_trial` speaks to in a local run: what submit() of reporting.sql is to a pod."""

from __future__ import annotations

import json
import socketserver
import threading
from pathlib import Path
from typing import Any

from study_client.local.session import Session
from study_operator.model.trial import Result

_LONGEST_CALL = 1 << 20  # bytes
_PATIENCE_SECONDS = 30.0  # for a caller that has connected and says nothing


class Reporting:
    """Answers the calls of trials until it is closed.

    Args:
        session: what they report to.
        path: the socket's, in a directory that only this user may enter.
    """

    def __init__(self, session: Session, path: Path) -> None:
        self.path, answering = path, Answering(session)

        class Handler(socketserver.StreamRequestHandler):
            timeout = _PATIENCE_SECONDS

            def handle(self) -> None:
                try:
                    line = self.rfile.readline(_LONGEST_CALL)
                    self.wfile.write(json.dumps(answering.answer(line)).encode() + b"\n")
                except OSError:
                    pass  # the program has ended, and hears nothing more

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more calls."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Answering:
    """What is answered to a call.

    Args:
        session: the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to a line: a result, or an error with its SQLSTATE."""
        try:
            call = json.loads(line)
            with self._session.lock:
                if call["trial"] not in self._session.trials:
                    return {"error": "SO001", "message": "there is no such trial"}
                return self._done(call)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": "22023", "message": f"the call cannot be read: {error!r}"[:500]}

    def _done(self, call: dict[str, Any]) -> dict[str, Any]:
        session, trial_id = self._session, call["trial"]
        trial = session.trials[trial_id]
        match call["call"]:
            case "report":
                if trial.told and trial.result is not None:
                    return _ENDED
                return {"result": session.report(trial_id, int(call["step"]), float(call["value"]))}
            case "should_stop":
                return {"result": trial.told and trial.result is None}
            case "set_user_attr":
                if trial.told:
                    return _ENDED
                trial.attributes[str(call["name"])] = json.loads(call["json"])
                return {"result": None}
            case "finish" | "candidate" as kind:
                return self._result(kind, call)
            case "bad_report":
                trial.bad = str(call["message"])
                return {"result": None}
            case "other_end":
                return {"result": None}
        return {"error": "42883", "message": f"there is no call {str(call['call'])[:50]!r}"}

    def _result(self, kind: str, call: dict[str, Any]) -> dict[str, Any]:
        session, trial = self._session, self._session.trials[call["trial"]]
        if trial.told and trial.result is not None:
            return _ENDED
        constraints = {str(name): float(value) for name, value in (call.get("constraints") or {}).items()}
        infeasible = call.get("infeasible")
        values = tuple(map(float, call["values"]))
        if kind == "candidate" and not values:
            trial.result = None
            return {"result": trial.told}
        reason = None if infeasible is None else str(infeasible)
        result = Result(values, bool(call.get("pruned")), constraints, reason, provisional=kind == "candidate")
        return {"result": session.finish(trial.row.trial_id, result)}


_ENDED = {"error": "SO002", "message": "the trial has ended"}
