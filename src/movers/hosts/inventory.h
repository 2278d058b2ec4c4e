// What old has that the move would leave behind: each thing that was found, and who covers it. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/hosts/survey.h"

namespace midstream {

// What the manifest covers, docs/formats/desired.md.
struct Cover {
  struct At {
    std::string address;  // numeric
    std::uint16_t port = 0;
    std::string by;  // "server web-old-1 of service web"
  };
  struct Tree {
    std::string path;
    std::string by;
  };
  std::vector<std::string> addresses;  // that move
  std::vector<At> servers;
  std::vector<std::pair<int, std::string>> clusters;  // port of a PostgreSQL cluster, and whose it is
  std::vector<Tree> trees;
  std::string mail;  // whose the mail of this host is; "" where nobody moves it
  std::vector<std::string> units;
  std::vector<std::string> accept;  // lines of the manifest
  int days = 7;
};
Result<Cover> parse_cover(const Json& desired);

struct InventoryItem {
  std::string line;    // as it is accepted: "listen 127.0.0.1:6379"
  std::string detail;  // what it is
  std::string cover;   // by what, or why it needs none; "" where nothing covers it
};

struct Inventory {
  const Survey& old_side;
  const Survey& new_side;
  const std::vector<SeenTree>& trees;
  std::pair<int, int> ephemeral;
};

std::vector<InventoryItem> take_inventory(const Inventory& seen, const Cover& cover);
// One finding each: why it is covered, or the line to add.
Json findings_of(const std::vector<InventoryItem>& items, const std::string& old_host);

}  // namespace midstream
