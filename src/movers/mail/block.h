// What midstream writes into the configuration of Dovecot and Postfix, as text. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "movers/mail/title.h"

namespace midstream::mail {

// A user name that may stand in a map, a path and an argument: [A-Za-z0-9._@+=-], 1 to 120 characters, not beginning
// with '-' or '.'. Anything else is hostile to one of the three.
bool is_mail_user(std::string_view name);

enum class Place { head, tail };

// `text` with midstream's block of `move` at its head or tail, in the place of one that is there. What surrounds the
// block is kept byte for byte.
std::string with_block(std::string_view text, std::string_view move, Place place, std::string_view body);
// `text` without it; corrupt where only one of its marks is there.
Result<std::string> without_block(std::string_view text, std::string_view move, Place place);

// main.cf with `body` ("name = value" lines) in force: what it sets anew is set aside where it stands, comments that begin
// with a mark. A name that is set twice makes every process of Postfix say so in its log at its start, and Postfix 3.7
// stands still for good when its own logger is being reloaded while ten lines wait for it (seen).
std::string with_settings(std::string_view text, std::string_view move, std::string_view body);
// Byte for byte as before, in an order in which nothing is lost.
Result<std::string> without_settings(std::string_view text, std::string_view move);

// How a side answers for one user.
struct Standing {
  std::string user;
  Title title;
  bool taking = false;          // not home, but about to become it: nothing is let in and nothing is sent back
  std::int64_t held_until = 0;  // while yielding: logins wait until then, seconds since 1970
};

// The user's line in the map that Dovecot looks up before its own passdb and userdb. `serial` is in every line, so that a
// lookup tells which map is in force. Never `nopassword`: it would let any password in.
std::string map_line(const Standing& standing, std::string_view other_address, std::uint64_t serial);

// Dovecot's blocks: the map ahead of everything (`head`), proxying and what it needs (`tail`).
std::string dovecot_head(std::string_view map_path);
std::string dovecot_tail(std::string_view trusted_networks);

}  // namespace midstream::mail
