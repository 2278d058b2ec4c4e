// What no stream carries and verify compares all the same: sequences and large objects, brought to the follower before the
// hold. Driven by change: what was carried is noted on the follower with what the owner had, and is not carried again until
// the owner has something else. So a follower that differs from what it was given is found, not mended.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

inline constexpr std::int64_t kObjectPiece = 1 << 20;  // bytes of a large object in one request

// The owner's: {"list": [[name, last value, called]]}.
Result<Json> sequences_here(const Work& work, const std::string& database);
// On the follower, args "list": sets those that are otherwise than when they were carried last; {"list": as they stand then}.
Result<Json> take_sequences(const Work& work, const std::string& database, const Json& args);

// Large objects with a number above args "after", up to "until" (0: as many as one statement digests well):
// {"list": [[oid, digest of content, owner, rights, comment and labels, what was noted when it was carried or ""]], "until": oid, 0 at the end}.
Result<Json> objects_here(const Work& work, const std::string& database, const Json& args);
// args "oid", "offset": {"data" (base64), "more", "owner", "acl", "about"}, or {"gone": true}.
Result<Json> object_piece(const Work& work, const std::string& database, const Json& args);
// The same on the follower: args as answered, with "oid", "offset" and "digest", what the owner had.
Result<Json> take_object(const Work& work, const std::string& database, const Json& args);

}  // namespace midstream::postgres
