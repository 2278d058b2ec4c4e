// What an Ethernet frame says about who owns an address. Pure.
//
// An owner is a sender in ARP (RFC 826) or neighbour discovery (RFC 4861) that answers for an address,
// announces it, or speaks as it. Asking about an address without having it does not own it: ARP probes
// (sender 0.0.0.0) and the solicitations of duplicate address detection (from ::) are questions only.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace midstream::lab {

struct Claim {
  std::string address;
  std::string mac;  // of the claimant, as the message has it
  std::string how;  // arp-reply, arp-announce, arp-request, nd-advert, nd-solicit
  std::string to;   // the asker's MAC for an answer, "" where it went to everybody
};

struct Question {
  std::string address;
  std::string mac;  // of the asker
};

struct Spoken {
  std::optional<Claim> claim;
  std::optional<Question> question;
};

// Nothing in it for a frame that is neither, or is cut short.
Spoken parse_frame(std::string_view frame);

using Mac = std::array<unsigned char, 6>;

// Frames that ask everybody who has `address`; they claim `from` for `mac`. "" if an address is not numeric,
// or the two are not of one family.
std::string make_question(const std::string& address, const std::string& from, const Mac& mac);
// The link-local IPv6 address that belongs to `mac` (RFC 4291, appendix A).
std::string link_local_of(const Mac& mac);

}  // namespace midstream::lab
