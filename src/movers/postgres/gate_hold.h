// The gate's part in a switch, as it is asked for through the agent on its host: who comes through it notices nothing but a
// moment's wait. Without a gate in the plan every call succeeds and does nothing.
#pragma once

#include <set>
#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

class GateHold {
 public:
  GateHold(const Work& work, std::string database) : work_(work), database_(std::move(database)) {}

  // Every session has what it needs on the other side. False: the gate is gone. Retry where a session cannot go: named, with
  // the reason. On the way back a gate that cannot be reached stops nothing: its sessions, if it has any, are ended as those of
  // everybody else.
  Result<bool> make_ready(bool to_new) const;
  // All of them are held; their backends on the side that they are on. Retry, with nobody held, where one does not come to rest.
  Result<std::set<int>> close(bool to_new) const;
  // Everybody goes over. {"moved", "ended", "ms"}.
  Result<Json> over(bool to_new) const;
  // After over(): until the connections that its sessions have left are closed, some time at most; the gate does it one after the
  // other, for ending them all at once is felt on that machine.
  void wait_left(bool to_new) const;
  // Nothing came of it: everybody goes on where they are.
  void open(bool to_new) const;

 private:
  Result<Json> ask(std::string_view verb, bool to_new, Json args = Json::object()) const {
    return work_.ask_gate(verb, database_, to_new ? "new" : "old", std::move(args));
  }
  Result<bool> prepare(bool to_new) const;
  Result<> wait_ready(bool to_new) const;
  const Work& work_;
  std::string database_;
};

}  // namespace midstream::postgres
