// What no event trigger tells of: the shared catalogs (roles with their verifiers, memberships, settings of roles and databases, rights on
// databases). Compared right before a switch, and made on the taker as the giver has them.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// On the taker. args: "catalog" (the giver's dump_catalog(), holds verifiers). Roles that the giver has and this side has not are made; those that the move has made here, on old
// all, become as the giver's; databases get the giver's owner, rights and settings. {"changed": [words]}. Refused, naming it, where a role that was on new before the
// move is otherwise than on old now.
Result<Json> carry_shared(const Work& work, const Json& args);

// Roles that came by the stream are, from here on, among those that undoing `target` drops. REQUIRES the title.
Result<> note_made_roles(const Work& work, const std::string& database);

}  // namespace midstream::postgres
