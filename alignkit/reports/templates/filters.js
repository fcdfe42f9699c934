// Shows the answers of one outcome, in the order that is wanted.
const list = document.getElementById("answers");
const all = [...list.children];
const count = document.getElementById("answers-shown");
const orders = { order: () => 0, longest: (a, b) => b.dataset.length - a.dataset.length, different: (a, b) => b.dataset.gap - a.dataset.gap };
const show = () => {
  const outcome = document.querySelector("input[name=outcome]:checked").value;
  const wanted = document.getElementById("answers-find").value.toLowerCase();
  const shown = all.filter((one) => (outcome === "all" || one.dataset.outcome === outcome) && one.textContent.toLowerCase().includes(wanted));
  list.replaceChildren(...shown.sort(orders[document.getElementById("answers-order").value]));
  count.textContent = `${shown.length} of ${all.length}`;
};
document.getElementById("answers-filter").addEventListener("input", show);
show();
