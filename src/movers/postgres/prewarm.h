// What is hot on old is read into new's buffers before new takes over: its first users shall not wait for its disk.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// {"relations": [names]}: tables and indexes by how many blocks were asked of them here, hottest first.
Result<Json> hot_relations(const Work& work, const std::string& database);

// Reads them, as far as three quarters of shared_buffers and ten seconds go, with pg_prewarm, where the server's host has it; the bytes
// read. An extension that was not there is made in a transaction that is rolled back: it is never seen by anybody.
Result<std::int64_t> prewarm(const Work& work, Session& session, const Json& hot);

}  // namespace midstream::postgres
