// The base backup of old's cluster, by a process of its own that outlives the agent: what runs it holds the lock on
// BOX/backup.lock, and leaves its exit code in BOX/backup.rc. It cannot be gone on with where it was cut off: then it is begun
// again (pg_basebackup has no resuming).
#pragma once

#include <cstdint>
#include <string>

#include "movers/postgres/cluster.h"
#include "movers/postgres/seed_place.h"

namespace midstream::postgres {

struct BackupLook {
  bool running = false;
  bool ended_well = false;
  std::int64_t bytes_done = 0;
  std::int64_t bytes_total = 0;  // an estimate
  std::string last_words;        // where it ended badly; what it said last
};

// The server's programs of that major version on this host; refused where one that a seed needs is missing.
Result<std::filesystem::path> server_programs(int major);
// argv's head: as the server's user, with nothing of ours in the environment.
std::vector<std::string> as_server_user(const std::string& os_user);

// Begins it from nothing. REQUIRES an empty place and the slot on old.
Result<> start_backup(const Work& work, const SeedPlace& place, int major);
Result<BackupLook> look_at_backup(const SeedPlace& place);
// Returns once no process of it is left.
Result<> end_backup(const SeedPlace& place);

}  // namespace midstream::postgres
