// The block that midstream keeps at the head of pg_hba.conf and pg_ident.conf while a move lasts.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/postgres/plan.h"

namespace midstream::postgres {

// `text` with `lines` as the move's marked block on top, in place of the block that it had. Empty `lines`:
// without a block. Nothing else of `text` is changed, so that taking the block away gives back the file byte
// for byte.
std::string with_block(std::string_view text, std::string_view move, std::string_view lines);

// The move's block as it stands in `text`: its lines without the marks, and the numbers of the first and the last line
// with the marks (1 is the first line of `text`; 0 and 0 where there is no block).
struct Block {
  std::string lines;
  int first = 0;
  int last = 0;
};
Block find_block(std::string_view text, std::string_view move);

// The block for pg_hba.conf: our own way in, the replication role from `peer_address`, and the refusals. A
// role that is a member of a database's fence role is refused there: granting and revoking that membership is
// how a fence for superusers is set and lifted inside one transaction. For databases in `hard` everybody else
// is refused as well; for those in `gated` too, but for whom the rest of the file lets in from the gate's address.
std::string hba_lines(const Plan& plan, std::string_view peer_address, const std::set<std::string>& hard_ones,
                      const std::set<std::string>& gated_ones = {});
// Networks that together hold every address but that one; "all" where it is none.
std::vector<std::string> all_but(const std::string& address);
// And for pg_ident.conf: OS user `os_user` may be our agent's role, and nobody else.
std::string ident_lines(const Plan& plan, std::string_view os_user);

// Replaces the block in `path` durably, keeping owner and mode; true where that changed something. Acts as
// the owner of the directory.
Result<bool> set_block(const std::filesystem::path& path, std::string_view move, std::string_view lines);

}  // namespace midstream::postgres
