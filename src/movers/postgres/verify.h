// Are both sides the same? While clients write: what differs is looked at again, key by key, after the stream
// has passed, until it either agrees or stands still and differs.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Kind `verify`, on new. {"rows", "tables", "ms"}; refused, naming tables and up to ten keys, where they
// differ.
Result<Json> run_verify(const Work& work);

// What each side answers. args "table" (as SQL writes it).
Result<Json> bucket_hashes(const Work& work, const std::string& database,
                           const Json& args);  // {"rows", "buckets"}
// args "table" and either "buckets" [int] or "keys" [text]: {key: hash}.
Result<Json> row_hashes(const Work& work, const std::string& database, const Json& args);
// args "table", "keys", of rows that change at every look: holds them (FOR SHARE, at most a fraction of a
// second) until the other side has everything and has been asked. {"differing": [key]}; retry where a lock or
// the stream is slow.
Result<Json> pinned_rows(const Work& work, const std::string& database, const Json& args);
// Has this side's apply report at once what it has made durable; else a look takes half a second.
Result<Json> report_promptly(const Work& work, const std::string& database);
// Waits until the other side has everything that is committed here now.
Result<Json> settle_lag(const Work& work, const std::string& database, const Json& args);

}  // namespace midstream::postgres
