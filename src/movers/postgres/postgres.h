// The mover `postgres`: one database after the other, live, from the old cluster to the new one, and back
// (docs/formats/desired.md; docs/movers/postgres.md says what holds a fence and what each name is).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "movers/mover.h"

namespace midstream {

struct PostgresOptions {
  std::string socket_dir = "/var/run/postgresql";
  std::string os_user = "postgres";    // runs the server; the agent acts as this user to log in
  std::string superuser = "postgres";  // the role that this OS user is by peer authentication
  Millis lease{10'000};                // how long old may stay soft-fenced without having yielded
  Millis old_transaction{500};         // a write transaction older than this postpones the switch
  // Bytes; with less free on the disk of the log, a slot that burdens it is given up. 0: a tenth of that disk, at least
  // 64 MiB, at most 10 GiB.
  std::int64_t wal_floor = 0;
  // What holds a copy's snapshot, with its argument; empty: this program's own `hold-snapshot`.
  std::vector<std::string> holder;
  std::int64_t copy_chunk = 32 << 20;  // bytes on disk that are copied in one transaction
  std::int64_t verify_rows = 1'000'000;  // at most, compared by one statement
  bool keeper = true;  // off: the agent's own duties wait until somebody asks (tests of what is left half-done)
  // Stops (false) or starts (true) the local server; empty: by whoever supervises it (server_unit.h).
  std::function<Result<>(bool up)> server;
  // Called at every named point between two effects; tests throw here to stand for a crash.
  std::function<void(std::string_view point)> checkpoint;
};

std::unique_ptr<Mover> make_postgres_mover();
std::unique_ptr<Mover> make_postgres_mover(PostgresOptions options);

}  // namespace midstream
