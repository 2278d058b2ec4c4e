// CHECK constraints are not asked while rows are copied: a row that old has is old's to judge. One that was there before its constraint
// (NOT VALID), or that the constraint's function sees otherwise today, could not be copied else. They are set aside as indexes are
// (late_indexes.h): pg_class says that the table has none, pg_constraint still has them, so that what is to be put back is known whoever was
// killed when.
#pragma once

#include <string>
#include <string_view>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// In one commit. REQUIRES that this side owns nothing; `guard` is the statement that makes sure of it.
Result<> set_checks_aside(Session& session, std::string_view guard, const std::stop_token& stop);
// Harmless when repeated.
Result<> put_checks_back(const Work& work, const std::string& database);

}  // namespace midstream::postgres
