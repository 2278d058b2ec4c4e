// The collectors: they run on the host that they look at, and only read.
#pragma once

#include <filesystem>
#include <ostream>
#include <string>

#include "base/result.h"

namespace midstream::lab {

// Prints a database collection: every order, and the commits of every permanent table outside of PostgreSQL's
// and midstream's own schemas, all in one snapshot. Needs a role that may read them, a superuser say.
Result<> collect_database(const std::string& conninfo, std::ostream& out);

// Prints a collection of all regular files below `directory`, symlinks not followed. Files that begin with a
// dot and end in ".tmp" are uploads that were never finished, and left out.
Result<> collect_files(const std::filesystem::path& directory, std::ostream& out);

}  // namespace midstream::lab
