// What one side answers while both are compared. Every statement is one part, in a snapshot of its own: nothing keeps the
// server from removing dead rows. Refused for a moment (retry) while the database is being handed over.
//
// args of all that name a table: "table" as SQL writes it, "key" [column names]: what tells rows apart, [] for none.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

inline constexpr int kBuckets = 256;        // of a range
inline constexpr int kPageBuckets = 4096;   // of a whole table that has no key
inline constexpr int kMostPinned = 100;     // rows that are held at once

// Every logged table: [{"table", "key", "rows" (an estimate), "bytes"}].
Result<Json> list_subjects(const Work& work, const std::string& database);
// args "after" (a key, or null), "rows": {"until": the key so many rows on, null where the table ends before}.
Result<Json> walk_keys(const Work& work, const std::string& database, const Json& args);
// args "after", "until": {"digest"}.
Result<Json> digest_range(const Work& work, const std::string& database, const Json& args);
// The same as {"buckets"}; for a table without key args "first", "count" instead: pages, and {"more"}.
Result<Json> digest_buckets(const Work& work, const std::string& database, const Json& args);
// The rows of args "wanted" [bucket], otherwise as digest_buckets: {"rows": {key: digest}, "more"}.
Result<Json> digest_rows(const Work& work, const std::string& database, const Json& args);
// The rows that args "keys" [key] name: {"rows", "more"}; without key, those in the pages "first", "count".
Result<Json> digest_keys(const Work& work, const std::string& database, const Json& args);
// args "hash", "first", "count": {"name": the beginning of such a row, "more"}.
Result<Json> name_row(const Work& work, const std::string& database, const Json& args);
// Rows that change at every look, at most kMostPinned: holds them (FOR SHARE, at most a fraction of a second) until the other
// side has everything and has been asked. {"differing": [key]}; retry where a lock or the stream is slow.
Result<Json> pinned_rows(const Work& work, const std::string& database, const Json& args);

// Has this side's apply report at once what it has made durable; else a look takes half a second.
Result<Json> report_promptly(const Work& work, const std::string& database);
// Waits until the other side has everything that is committed here now.
Result<Json> settle_lag(const Work& work, const std::string& database);

}  // namespace midstream::postgres
