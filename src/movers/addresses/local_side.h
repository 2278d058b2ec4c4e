// One host's half of a handover: what it does to its own kernel, files and title. Every act is durable before
// it answers and harmless when repeated. The caller holds the set's lock during an act.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "movers/addresses/address_set.h"
#include "movers/addresses/addresses.h"
#include "movers/addresses/boot_config.h"
#include "movers/addresses/netlink.h"
#include "movers/title.h"
#include "movers/addresses/wire.h"

namespace midstream {

class LocalSide {
 public:
  LocalSide(AddressSet set, std::string host, std::filesystem::path state, const AddressesOptions& options,
            std::stop_token stop);

  const AddressSet& set() const { return set_; }
  const AddressSide& me() const { return set_.side(host_); }

  // The stored title; where none is stored: owner (turn 0) on `from` while the addresses are configured
  // there, else standby.
  Result<Title> title();
  // What the other side and the operator need to know; `full` reads the boot configuration too.
  Result<Json> status(bool full);

  // The giver's acts.
  Result<Json> prepare(std::uint64_t turn, const Task& task);  // un-persists; the addresses still answer here
  Result<Json> release(std::uint64_t turn, const Task& task);  // deletes; afterwards the title is yielded
  Result<Json> keep(std::uint64_t turn, const Task& task);     // back from prepare or half a release
  // The taker's acts. `force`: although somebody else answers for an address (giving back what it had).
  Result<Json> ready(const Task& task);  // that its title can be written
  Result<Json> take(std::uint64_t turn, bool force, const Task& task);
  Result<Json> persist();
  Result<Json> renounce(std::uint64_t turn, const Task& task);

  // Configured here without being answered for on the wire.
  Result<> stage();
  Result<> unstage(bool forget);  // `forget`: for good; else restage() brings it back
  Result<> restage();             // where stage() was called and not forgotten
  Result<bool> staged();

  // Announces once, if the title is ours at `turn`; false where it is not.
  Result<bool> announce_again(std::uint64_t turn);
  // Makes the kernel agree with the title, after a start. Returns words for the operator, or "".
  Result<std::string> recover(const Task& task);

 private:
  struct Kept {  // what the giver had, to be put back
    std::uint64_t turn = 0;
    std::vector<AddressEntry> entries;
    std::vector<std::string> routes;
    std::vector<FileChange> files;
    std::string promote;  // promote_secondaries before; "" where it was not touched
  };
  std::filesystem::path path(std::string_view suffix) const;
  Result<std::optional<Json>> load(std::string_view suffix) const;
  Result<> store_title(const Title& title, const Task& task);
  Result<> store_kept(const Kept& kept);
  Result<std::optional<Kept>> load_kept(unsigned link) const;
  Result<Kept> gather(Netlink& netlink, const Link& link, std::uint64_t turn);
  Result<std::vector<AddressEntry>> configured(Netlink& netlink, std::optional<unsigned> on,
                                               bool others = false);
  Result<> delete_addresses(Netlink& netlink, const Link& link, Kept& kept);
  Result<> put_back(Netlink& netlink, const Link& link, const std::optional<Kept>& kept);
  Result<std::vector<Claim>> contested(Wire& wire, std::vector<Claim>& gateways);
  bool forwards() const;

  AddressSet set_;
  std::string host_;
  std::filesystem::path state_;
  const AddressesOptions& options_;
  std::stop_token stop_;
};

// The arp_ignore and arp_announce that staging needs, shared by all staged sets of a host: set when the first
// comes, put back when the last goes. Thread-safe.
Result<> hold_arp_silence(const std::filesystem::path& state, const std::string& id);
Result<> drop_arp_silence(const std::filesystem::path& state, const std::string& id);

}  // namespace midstream
