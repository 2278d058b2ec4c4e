// Where a seed lies on new's disk, and the exchange of two data directories. Nothing here speaks to a server.
//
//   DATA                          the server's data directory: the cluster that was there, later the copy
//   .midstream-MOVE-PORT/cluster  beside it: the base backup, until it takes DATA's place
//   DATA.before-MOVE              the cluster that was there, once the copy is in its place; never removed
//
// Which of two directories is the copy says a file inside it, `midstream.seed`. What has none is not ours and is not removed,
// but for a base backup under way while DATA is not the copy.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "base/result.h"

namespace midstream::postgres {

struct SeedPlace {
  std::string os_user;           // owns all of it
  std::filesystem::path data;    // as the server has it: a directory, no link
  std::filesystem::path box;     // ours
  std::filesystem::path before;  // where DATA goes

  std::filesystem::path cluster() const { return box / "cluster"; }
};
SeedPlace seed_place(const std::string& os_user, const std::filesystem::path& data, const std::filesystem::path& box,
                     const std::string& move);

bool is_cluster(const std::filesystem::path& directory);
bool is_copy(const std::filesystem::path& directory);
// From here on `cluster` is known for the copy of a move.
Result<> mark_copy(const SeedPlace& place, const std::string& move);
// And is an ordinary cluster again (finish).
Result<> unmark_copy(const SeedPlace& place);

// Configuration and whatever else lies beside PostgreSQL's own files in a data directory stays that of the host: the copy gets
// DATA's in place of old's. On disk when it returns.
Result<> settle_files(const SeedPlace& place);

// DATA and the copy change places, in one act of the file system. Nobody may have either open. Idempotent, as are all of these.
Result<> swap_in(const SeedPlace& place);
// The cluster that was there is in its place again; the copy is back in the box, or nowhere.
Result<> swap_back(const SeedPlace& place);
// The copy in the box, and a base backup that has not ended. REQUIRES that nobody has it open.
Result<> remove_copy(const SeedPlace& place);

}  // namespace midstream::postgres
