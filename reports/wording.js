// Numbers of 0 or more as harness/wording.py says them; a browser test runs many through both.
const wording = (() => {
  // With so many decimals: of two that are as near the even one, as Python has it.
  function fixed(value, digits) {
    const long = value.toFixed(digits + 40), cut = long.slice(0, -40).replace(/\.$/, "");
    const even = /[02468]$/.test(cut) && /^50*$/.test(long.slice(-40));
    const [whole, part] = (even ? cut : value.toFixed(digits)).split(".");
    return Number(whole).toLocaleString("en") + (part ? `.${part}` : "");
  }

  // Decimals of three significant digits.
  const digits = (value) => Math.max(0, 2 - Number(value.toExponential().split("e")[1]));

  // The least number of so many decimals that is no less.
  function above(value, digits) {
    const text = fixed(value, digits), near = Number(text.replaceAll(",", ""));
    return near < value ? fixed(near + 10 ** -digits, digits) : text;
  }

  // All and none are said of no other shares.
  function share(value) {
    const text = `${fixed(100 * value, 0)}%`;
    return 1e-9 < value && value < 1 - 1e-9 ? { "0%": "<1%", "100%": ">99%" }[text] || text : text;
  }

  const usd = (value) => `$${value ? fixed(value, value < 10 ? digits(value) : 2) : 0}`;
  return { above, digits, share, usd };
})();
