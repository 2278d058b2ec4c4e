// The gate's session core, fed from both sides by peers that may do anything.
#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "gate/traffic.h"
#include "sys/file.h"
#include "tests/fuzz/target.h"

namespace midstream::fuzz {

namespace {

using Seeds = std::vector<std::string>;
using gate::Traffic;

// A piece: a byte that says who sent it (its lowest bit; the next one: hold from here on; the next: release), its length in
// two bytes, and that many bytes.
struct Piece {
  bool client;
  bool hold;
  bool release;
  std::string_view bytes;
};

std::vector<Piece> pieces_of(std::string_view input) {
  std::vector<Piece> pieces;
  while (input.size() >= 3) {
    const auto how = static_cast<unsigned char>(input[0]);
    const std::size_t size = gate::read_u16(input.substr(1));
    input.remove_prefix(3);
    pieces.push_back({(how & 1) == 0, (how & 2) != 0, (how & 4) != 0, input.substr(0, size)});
    input.remove_prefix(std::min(size, input.size()));
  }
  return pieces;
}

// Feeds as a shell does: what is not taken is fed again with more. `cut`: each piece in two.
class Run {
 public:
  Run(const std::vector<Piece>& pieces, bool cut) {
    for (const auto& piece : pieces) {
      if (piece.hold || piece.release) traffic.hold(piece.hold && !piece.release);
      const auto half = cut ? piece.bytes.size() / 2 : piece.bytes.size();
      feed(piece.client, piece.bytes.substr(0, half));
      feed(piece.client, piece.bytes.substr(half));
    }
  }
  Traffic traffic;
  std::string passed[2];

 private:
  void feed(bool client, std::string_view bytes) {
    auto& waiting = waiting_[client ? 0 : 1];
    waiting.append(bytes);
    const auto taken = client ? traffic.from_client(waiting) : traffic.from_server(waiting);
    must(taken <= waiting.size(), "no more goes on than has come");
    passed[client ? 0 : 1].append(waiting, 0, taken);
    waiting.erase(0, taken);
    must(client || traffic.server_broken() || waiting.size() < gate::kHeaderSize, "the server is never held up");
    must(!traffic.safe() || traffic.answers().none(), "it is not safe while an answer is owed");
    must(!traffic.held() || traffic.transaction() == 'I', "nobody is held within a transaction");
  }
  std::string waiting_[2];
};

void gate_traffic(std::string_view input) {
  const auto pieces = pieces_of(input);
  const Run whole(pieces, false);
  const Run cut(pieces, true);
  const bool holds = std::any_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.hold; });
  must(whole.passed[1] == cut.passed[1], "what the server sent goes on the same however it is split");
  // A hold takes effect between messages, so that where it meets a split there is more than one right answer.
  if (holds) return;
  must(whole.passed[0] == cut.passed[0], "what the client sent goes on the same however it is split");
  must(whole.traffic.busy() == cut.traffic.busy() && whole.traffic.pinned() == cut.traffic.pinned(), "and means the same");
  must(whole.traffic.statements().all() == cut.traffic.statements().all(), "and prepares the same");
}

Seeds gate_traffic_seeds() {
  Seeds seeds;
  for (const auto& entry : std::filesystem::directory_iterator(MIDSTREAM_TRANSCRIPTS)) {
    if (entry.path().extension() != ".txt") continue;
    std::string seed;
    for (const auto& line : split(read_file(entry.path()).value(), '\n')) {
      if (line.empty() || line[0] == '=') continue;
      const auto bytes = from_hex(line.substr(2)).value();
      seed.push_back(line[0] == 'C' ? '\0' : '\1');
      seed.push_back(static_cast<char>(bytes.size() >> 8));
      seed.push_back(static_cast<char>(bytes.size()));
      seed += bytes;
    }
    seeds.push_back(std::move(seed));
  }
  std::ranges::sort(seeds);
  return seeds;
}

}  // namespace

std::vector<Target> gate_targets() { return {{"gate_traffic", gate_traffic, gate_traffic_seeds}}; }

}  // namespace midstream::fuzz
