// A fetch that sends each request to the next worker in turn, whatever worker
// the client believes it speaks to.

export function inTurn(urls) {
  const asked = urls.map(() => 0);
  let turn = 0;
  const fetchInTurn = async (input, init) => {
    const target = new URL(input instanceof Request ? input.url : input);
    const worker = turn++ % urls.length;
    asked[worker]++;
    target.host = new URL(urls[worker]).host;
    return fetch(target, init);
  };
  return { fetchInTurn, asked };
}
